//! Web-analytics facts to try, test and measure with: the topic `pageviews` of a new project, and those
//! of the example `newsroom`, which has what a crawler found beside them.
//!
//! The generator stands for the traffic of several news sites. Posts are live for 48 hours, in
//! which their readers come by a Zipf law and by age, and are read for ever after by few. Traffic
//! follows the time of day, and bursts of news bring readers to a few posts. A reader's page view
//! may be followed by heartbeats and shares, more of them on posts that are read thoroughly.
//! Facts come in the order in which they are received: event times rise but for some seconds of
//! jitter and for a share of late facts.
//!
//! The same options give the same facts, byte for byte, on every machine and in every run. They
//! are made one by one in bounded memory: what is kept grows with the number of posts, of which
//! there are at most a quarter of a million by default.
//!
//! At the default numbers of posts and visitors, about a third as many pairs of minute and URL
//! as facts are distinct, however many facts there are from about 100,000 on.

mod encode;
mod newsroom;
mod options;
mod pace;
mod posts;
mod random;
mod referrers;
#[cfg(test)]
mod tests;

use arrow::array::RecordBatch;

use encode::{BatchWriter, LineWriter};
use pace::{Pace, SECOND_US};
use posts::{LIVE_US, Posts};
use random::{Chance, Random, mix};
use referrers::{Referrer, Referrers};

pub use encode::schema;
pub use newsroom::{CRAWLS, EVENTS, Made, Newsroom};
pub use options::{GeneratorError, GeneratorOptions};

/// The fields of a fact in order, each with its SQL type as in `CREATE TABLE`.
///
/// `ts` is the event time, `visitor` 16 hexadecimal digits, `action` one of `pageview`,
/// `heartbeat` and `share`; `engaged_ms` is null but for heartbeats, `referrer` for direct visits.
pub const FIELDS: &[(&str, &str)] = &[
    ("ts", "timestamp not null"),
    ("url", "varchar not null"),
    ("author", "varchar"),
    ("section", "varchar"),
    ("referrer", "varchar"),
    ("visitor", "varchar"),
    ("action", "varchar"),
    ("engaged_ms", "bigint"),
];

/// Posts for each two facts a minute, over a span of 48 hours. Makes distinct pairs of minute and
/// URL about a third of the facts.
const POSTS_PER_TWO_FACTS_A_MINUTE: u128 = 5;
const MIN_POSTS: u128 = 64;
const MAX_POSTS: u128 = 250_000;
/// So many facts are there for each visitor.
const FACTS_PER_VISITOR: u64 = 8;
const MIN_VISITORS: u64 = 100;

/// Facts come at most so long after their event time, unless they are late.
const JITTER_US: f64 = (12 * SECOND_US) as f64;
/// Late facts come at least this late; the delay is doubled up to seven times.
const LATE_US: u64 = 120 * SECOND_US;
const LATE_DOUBLINGS: u64 = 8;
/// A heartbeat or a share follows one of the page views of so many seconds.
const SESSION_S: u64 = 90;
const MAX_SESSIONS: u64 = 8192;
/// A duplicate repeats one of the facts of so many seconds.
const REPEAT_S: u64 = 120;
const MAX_REPEATS: u64 = 16_384;
const HEARTBEAT_SHARE: f64 = 0.45;
const SHARE_SHARE: f64 = 0.05;
/// Posts that a reader who goes on looks at, until one is of the same site.
const GOING_ON_DRAWS: u32 = 12;

/// One fact, with what it shares with others by reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fact {
    /// Its number; a copy has that of what it repeats.
    id: u64,
    ts_us: u64,
    post: u32,
    referrer: Referrer,
    visitor: u64,
    action: Action,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    PageView,
    Heartbeat { engaged_ms: u32 },
    Share,
}

/// Makes the facts that its options describe, once, in order.
///
/// Lines and batches may be taken in turn; each fact is given once.
///
/// Invariants: every fact's event time is in `[start_us, end)`; `sessions` holds page views only;
/// the number of facts given is `facts - remaining()`.
#[derive(Debug)]
pub struct Generator {
    start_us: u64,
    visitors: u64,
    late: Chance,
    duplicates: Chance,
    /// Unless `None`, how often a page view goes on from another one.
    goes_on: Option<Chance>,
    /// The number of the next fact that is none again.
    next_id: u64,
    random: Random,
    pace: Pace,
    posts: Posts,
    referrers: Referrers,
    sessions: Recent,
    repeats: Recent,
    lines: LineWriter,
}

impl Generator {
    /// # Errors
    ///
    /// [`GeneratorError`] names the option that is out of its range.
    pub fn new(options: &GeneratorOptions) -> Result<Self, GeneratorError> {
        let (start_us, end_us) = options.check()?;
        let span_us = end_us - start_us;
        let span_s = (span_us / SECOND_US).max(1);
        let facts_in = |seconds: u64| {
            (u128::from(options.facts) * u128::from(seconds) / u128::from(span_s)) as u64
        };

        let posts = options.posts.unwrap_or_else(|| {
            let span_and_before = u128::from(span_us + LIVE_US);
            let posts = u128::from(facts_in(60)) * POSTS_PER_TWO_FACTS_A_MINUTE * span_and_before
                / u128::from(4 * LIVE_US);
            posts.clamp(MIN_POSTS, MAX_POSTS) as u32
        });
        let visitors = match options.visitors {
            Some(visitors) => u64::from(visitors),
            None => (options.facts / FACTS_PER_VISITOR).max(MIN_VISITORS),
        };

        // Separate streams, so that the facts' shape and their sequence don't disturb each other.
        let mut world = Random::new(mix(options.seed));
        let pace = Pace::new(start_us, end_us, options.facts, &mut world);
        let mut posts = Posts::new(posts, start_us, end_us, &mut world);
        posts.assign_bursts(pace.bursts());

        Ok(Self {
            start_us,
            visitors,
            late: Chance::new(options.late),
            duplicates: Chance::new(options.duplicates),
            goes_on: (options.goes_on > 0.0).then(|| Chance::new(options.goes_on)),
            next_id: 0,
            random: Random::new(mix(world.next())),
            pace,
            posts,
            referrers: Referrers::new(),
            sessions: Recent::new(facts_in(SESSION_S) / 2, MAX_SESSIONS),
            repeats: match options.duplicates > 0.0 {
                true => Recent::new(facts_in(REPEAT_S), MAX_REPEATS),
                false => Recent::new(0, 0),
            },
            lines: LineWriter::new(),
        })
    }

    /// How many facts are still to come.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.pace.remaining()
    }

    /// Appends up to `facts` lines of NDJSON, of about 240 bytes each, to `out`, and returns how
    /// many; 0 is the end.
    pub fn next_ndjson(&mut self, out: &mut Vec<u8>, facts: usize) -> usize {
        let mut written = 0;
        while written < facts {
            let Some(fact) = self.next_fact() else { break };
            self.lines.write(&fact, &self.posts, &self.referrers, out);
            written += 1;
        }
        written
    }

    /// The next facts, up to `facts`, in the schema of [`schema`]; `None` is the end.
    pub fn next_batch(&mut self, facts: usize) -> Option<RecordBatch> {
        let expected = usize::try_from(self.remaining())
            .unwrap_or(usize::MAX)
            .min(facts);
        if expected == 0 {
            return None;
        }
        let mut batch = BatchWriter::with_capacity(expected);
        for _ in 0..expected {
            let fact = self.next_fact()?;
            batch.write(&fact, &self.posts, &self.referrers);
        }
        Some(batch.finish())
    }

    fn next_fact(&mut self) -> Option<Fact> {
        let moment = self.pace.next(&mut self.random)?;
        let random = &mut self.random;
        if !self.repeats.is_empty() && random.chance(self.duplicates) {
            return self.repeats.pick(random).copied();
        }
        let elapsed_us = moment.at_us - self.start_us;
        let late = random.chance(self.late);
        let mut delay_us = if late {
            late_us(random)
        } else {
            jitter_us(random)
        };
        if delay_us > elapsed_us {
            delay_us = random.below(elapsed_us + 1);
        }
        let ts_us = moment.at_us - delay_us;

        let id = self.next_id;
        self.next_id += 1;
        let mut fact = match next_action(&self.sessions, &self.posts, random) {
            Some((page_view, action)) => Fact {
                id,
                ts_us,
                action,
                ..page_view
            },
            None => {
                let before = match self.goes_on {
                    Some(chance) if random.chance(chance) => self.sessions.pick(random).copied(),
                    _ => None,
                };
                let mut post = self.posts.pick(moment.at_us, moment.burst, random);
                let (referrer, visitor) = match before {
                    Some(before) => {
                        // Mostly to the same site.
                        for _ in 0..GOING_ON_DRAWS {
                            if self.posts.site(post) == self.posts.site(before.post) {
                                break;
                            }
                            post = self.posts.pick(moment.at_us, None, random);
                        }
                        (Referrer::Post(before.post), before.visitor)
                    }
                    None => (
                        self.posts.pick_referrer(post, random),
                        pick_visitor(self.visitors, random),
                    ),
                };
                let fact = Fact {
                    id,
                    ts_us,
                    post,
                    referrer,
                    visitor,
                    action: Action::PageView,
                };
                self.sessions.push(fact);
                fact
            }
        };
        if late {
            let post = self.posts.published_at(fact.post, ts_us, random);
            if post != fact.post {
                fact.post = post;
                fact.referrer = self.posts.pick_referrer(post, random);
            }
        }
        self.repeats.push(fact);
        Some(fact)
    }
}

/// What follows one of the recent page views; `None` is a new page view.
fn next_action(sessions: &Recent, posts: &Posts, random: &mut Random) -> Option<(Fact, Action)> {
    let draw = random.unit();
    if draw < HEARTBEAT_SHARE {
        let page_view = sessions.pick_highest(2, |post| posts.depth(post), random)?;
        let (one, other) = (random.below(14_001) as u32, random.below(14_001) as u32);
        let deep = random.below(256) < u64::from(posts.depth(page_view.post));
        let above_ms = if deep { one.max(other) } else { one.min(other) };
        Some((
            page_view,
            Action::Heartbeat {
                engaged_ms: 1000 + above_ms,
            },
        ))
    } else if draw < HEARTBEAT_SHARE + SHARE_SHARE {
        let page_view = sessions.pick_highest(3, |post| posts.pull(post), random)?;
        Some((page_view, Action::Share))
    } else {
        None
    }
}

/// A delay of some seconds, more often short: the product of two uniform ones.
fn jitter_us(random: &mut Random) -> u64 {
    (random.unit() * random.unit() * JITTER_US) as u64
}

/// A delay of 2 minutes to 8.5 hours, about as often between each and its double.
fn late_us(random: &mut Random) -> u64 {
    let least_us = LATE_US << random.below(LATE_DOUBLINGS);
    least_us + random.below(least_us)
}

/// A visitor's name. Visits fall off as the -1/2th power of a visitor's rank, with the most active
/// ones held to about fifty times the mean.
fn pick_visitor(visitors: u64, random: &mut Random) -> u64 {
    const LEAST: f64 = 0.01;
    let root = LEAST + (1.0 - LEAST) * random.unit();
    let rank = visitors as f64 * (root * root - LEAST * LEAST) / (1.0 - LEAST * LEAST);
    // A bijection, so that different visitors have different names.
    mix(rank as u64 ^ 0x5851_f42d_4c95_7f2d)
}

/// The latest facts, up to a number, to draw from.
#[derive(Debug)]
struct Recent {
    facts: Vec<Fact>,
    capacity: usize,
    next: usize,
}

impl Recent {
    /// Holds `capacity` facts, but at least 4 and at most `limit`.
    fn new(capacity: u64, limit: u64) -> Self {
        Self {
            facts: Vec::new(),
            capacity: capacity.max(4).min(limit) as usize,
            next: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    fn push(&mut self, fact: Fact) {
        if self.facts.len() < self.capacity {
            self.facts.push(fact);
        } else if let Some(oldest) = self.facts.get_mut(self.next) {
            *oldest = fact;
            self.next = (self.next + 1) % self.capacity;
        }
    }

    fn pick(&self, random: &mut Random) -> Option<&Fact> {
        self.facts
            .get(random.below(self.facts.len() as u64) as usize)
    }

    /// Of so many drawn, the one whose post has the highest mark.
    fn pick_highest(
        &self,
        draws: u32,
        mark: impl Fn(u32) -> u8,
        random: &mut Random,
    ) -> Option<Fact> {
        let mut highest = *self.pick(random)?;
        for _ in 1..draws {
            let other = *self.pick(random)?;
            if mark(other.post) > mark(highest.post) {
                highest = other;
            }
        }
        Some(highest)
    }
}
