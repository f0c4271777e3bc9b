//! What facts are about: posts with their authors, sections and addresses, and which of them
//! draws readers when.

use super::pace::{Burst, HOUR_US, MINUTE_US};
use super::random::{Alias, Chance, Random, zipf_weight};
use super::referrers::{Audience, Place, Referrer};

/// How long a post is live: within it, its readers come by its own popularity and its age.
pub(super) const LIVE_US: u64 = 48 * HOUR_US;
/// The age at which a post has lost half of its first popularity.
const HALF_US: u64 = 8 * HOUR_US;
/// How often popularity is computed anew.
const EPOCH_US: u64 = 5 * MINUTE_US;
/// A post is read only from this age on. It is more than the jitter of event times, so that only
/// late facts have to be checked for being older than their post.
const UNREAD_US: u64 = MINUTE_US;
/// Share of the readers of posts that are no longer live.
const OLD_SHARE: f64 = 0.12;
const AUTHORS: u64 = 200;
/// Posts that share a burst.
const BURST_POSTS: u32 = 3;

pub(super) const SECTIONS: [&str; 15] = [
    "politics",
    "world",
    "business",
    "markets",
    "technology",
    "science",
    "health",
    "sport",
    "football",
    "culture",
    "film",
    "music",
    "travel",
    "food",
    "opinion",
];
pub(super) const SITES: [&str; 8] = [
    "gazette",
    "herald",
    "tribune",
    "observer",
    "courier",
    "chronicle",
    "dispatch",
    "monitor",
];
const FIRST_NAMES: [&str; 20] = [
    "Ada", "Ben", "Carla", "David", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Keiko",
    "Liam", "Mara", "Noah", "Olga", "Priya", "Quentin", "Rosa", "Søren", "Zoë",
];
const LAST_NAMES: [&str; 20] = [
    "Adler",
    "Baker",
    "Costa",
    "Dubois",
    "Evans",
    "Fischer",
    "García",
    "Haddad",
    "Ito",
    "Jensen",
    "Kowalski",
    "Lindqvist",
    "Moreau",
    "Novak",
    "Okafor",
    "Patel",
    "Rossi",
    "Schmidt",
    "Tanaka",
    "Weber",
];
const WORDS: [&str; 48] = [
    "after", "bank", "bill", "border", "budget", "cities", "climate", "court", "crisis", "data",
    "deal", "debate", "election", "energy", "europe", "final", "first", "future", "goal", "growth",
    "housing", "inside", "judge", "king", "late", "league", "market", "mayor", "minister", "new",
    "ocean", "plan", "police", "power", "prices", "record", "reform", "report", "rise", "school",
    "senate", "storm", "strike", "talks", "trade", "vote", "water", "why",
];

#[derive(Debug)]
struct Author {
    name: String,
    site: u8,
    section: u8,
    audience: Audience,
}

#[derive(Debug, Clone, Copy)]
struct Post {
    /// Where the post's text starts in `Posts::text`.
    text_start: u32,
    url_len: u8,
    author: u8,
    section: u8,
    /// How thoroughly readers read it.
    depth: u8,
    /// How readily readers share it: half depth, half luck.
    pull: u8,
    /// The post that the same site published before, from which readers come.
    previous: Option<u32>,
}

/// All posts, in the order of their publication; a post is known by its index.
///
/// The first `archived` were published before any fact; the rest at `published_us`, which rises.
/// Of the rest, those at most `LIVE_US` old are live.
///
/// Invariants: `text` holds a post's part of an NDJSON line, so that writing a fact is one copy;
/// `popularity` covers the live posts from `live_start` on, as of `epoch`.
#[derive(Debug)]
pub(super) struct Posts {
    posts: Vec<Post>,
    text: String,
    authors: Vec<Author>,
    archived: u32,
    published_us: Vec<u64>,
    base_weights: Vec<f64>,
    burst_posts: Vec<u32>,
    old_chance: Chance,
    epoch: Option<u64>,
    live_start: u32,
    popularity: Alias,
}

const URL_OPEN: &str = "\",\"url\":\"";
const AUTHOR_OPEN: &str = "\",\"author\":\"";
const SECTION_OPEN: &str = "\",\"section\":\"";
const REFERRER_OPEN: &str = "\",\"referrer\":";

impl Posts {
    pub(super) fn new(count: u32, start_us: u64, end_us: u64, random: &mut Random) -> Self {
        let authors = authors(random);
        let archived = count.div_ceil(2).max(1);
        let fresh = u64::from(count.saturating_sub(archived));

        let mut posts = Vec::with_capacity(count as usize);
        let mut text = String::new();
        let mut latest = [None; SITES.len()];
        for index in 0..count.max(1) {
            let post = post(&authors, &mut text, &mut latest, index, random);
            posts.push(post);
        }

        let window_us = u128::from(end_us - start_us + LIVE_US);
        let mut published_us = Vec::with_capacity(fresh as usize);
        for index in 0..fresh {
            let part = u128::from(index) * window_us + u128::from(random.below(window_us as u64));
            // May reach back before 1970 for a span that starts then; order is what matters.
            let since_us = (part / u128::from(fresh)) as u64;
            published_us.push((start_us + since_us).saturating_sub(LIVE_US));
        }

        let mut base_weights: Vec<f64> = (1..=fresh).map(zipf_weight).collect();
        for index in (1..base_weights.len()).rev() {
            base_weights.swap(index, random.below(index as u64 + 1) as usize);
        }

        Self {
            posts,
            text,
            authors,
            archived,
            published_us,
            base_weights,
            burst_posts: Vec::new(),
            old_chance: Chance::new(OLD_SHARE),
            epoch: None,
            live_start: archived,
            popularity: Alias::default(),
        }
    }

    /// Gives each burst the last posts that can be read when it begins.
    pub(super) fn assign_bursts(&mut self, bursts: &[Burst]) {
        self.burst_posts = bursts
            .iter()
            .map(|burst| self.published_by(burst.start_us.saturating_sub(UNREAD_US)))
            .collect();
    }

    /// The post that a reader opens.
    pub(super) fn pick(&mut self, at_us: u64, burst: Option<usize>, random: &mut Random) -> u32 {
        let epoch = at_us / EPOCH_US;
        if self.epoch != Some(epoch) {
            self.epoch = Some(epoch);
            self.weigh(epoch * EPOCH_US);
        }
        if let Some(&end) = burst.and_then(|burst| self.burst_posts.get(burst)) {
            // Two draws, the smaller: the latest of the burst's posts draws the most readers.
            let back = random
                .below(u64::from(BURST_POSTS))
                .min(random.below(u64::from(BURST_POSTS)));
            return end.saturating_sub(1 + back as u32);
        }
        if !random.chance(self.old_chance)
            && let Some(live) = self.popularity.pick(random)
        {
            return self.live_start + live;
        }
        pick_old(self.live_start, random)
    }

    /// `post`, or an old one if `post` was not yet published then.
    pub(super) fn published_at(&self, post: u32, ts_us: u64, random: &mut Random) -> u32 {
        let published_us = post
            .checked_sub(self.archived)
            .and_then(|fresh| self.published_us.get(fresh as usize));
        match published_us {
            Some(&published_us) if published_us > ts_us => pick_old(self.archived, random),
            _ => post,
        }
    }

    fn weigh(&mut self, at_us: u64) {
        let end = self.published_by(at_us.saturating_sub(UNREAD_US));
        self.live_start = match at_us.checked_sub(LIVE_US) {
            Some(dead_us) => self.published_by(dead_us),
            None => self.archived,
        };
        let live = (self.live_start - self.archived) as usize..(end - self.archived) as usize;
        let weights = self.published_us[live.clone()]
            .iter()
            .zip(&self.base_weights[live])
            .map(|(&published_us, &base)| {
                let age_us = at_us.saturating_sub(published_us);
                base / (1.0 + age_us as f64 / HALF_US as f64)
            });
        self.popularity.rebuild(weights);
    }

    /// The end of the range of posts that were published by then.
    fn published_by(&self, at_us: u64) -> u32 {
        self.archived
            + self
                .published_us
                .partition_point(|&published_us| published_us <= at_us) as u32
    }

    pub(super) fn depth(&self, post: u32) -> u8 {
        self.posts[post as usize].depth
    }

    pub(super) fn pull(&self, post: u32) -> u8 {
        self.posts[post as usize].pull
    }

    /// Where a reader of the post came from.
    pub(super) fn pick_referrer(&self, post: u32, random: &mut Random) -> Referrer {
        let Post {
            author,
            section,
            previous,
            ..
        } = self.posts[post as usize];
        let Author { site, audience, .. } = &self.authors[usize::from(author)];
        audience.pick(
            Place {
                site: *site,
                section,
                previous,
            },
            random,
        )
    }

    /// The post's part of an NDJSON line, from the end of `ts` to the start of `referrer`'s value.
    pub(super) fn ndjson(&self, post: u32) -> &str {
        let start = self.posts[post as usize].text_start as usize;
        let end = match self.posts.get(post as usize + 1) {
            Some(next) => next.text_start as usize,
            None => self.text.len(),
        };
        &self.text[start..end]
    }

    pub(super) fn url(&self, post: u32) -> &str {
        let Post {
            text_start,
            url_len,
            ..
        } = self.posts[post as usize];
        let start = text_start as usize + URL_OPEN.len();
        &self.text[start..start + usize::from(url_len)]
    }

    /// How many posts there are.
    pub(super) fn count(&self) -> u32 {
        self.posts.len() as u32
    }

    /// When a post was published; `None` for one that was long before any fact.
    pub(super) fn published(&self, post: u32) -> Option<u64> {
        let fresh = post.checked_sub(self.archived)?;
        self.published_us.get(fresh as usize).copied()
    }

    /// The name of a post's site.
    pub(super) fn site(&self, post: u32) -> &'static str {
        let author = self.posts[post as usize].author;
        SITES[usize::from(self.authors[usize::from(author)].site)]
    }

    pub(super) fn author(&self, post: u32) -> &str {
        &self.authors[usize::from(self.posts[post as usize].author)].name
    }

    pub(super) fn section(&self, post: u32) -> &'static str {
        SECTIONS[usize::from(self.posts[post as usize].section)]
    }
}

/// Any post below `end`, the more likely the newer it is: the distance from `end` is distributed
/// as its `-1/2`th power.
fn pick_old(end: u32, random: &mut Random) -> u32 {
    let unit = random.unit();
    end.saturating_sub(1 + (unit * unit * f64::from(end)) as u32)
}

fn authors(random: &mut Random) -> Vec<Author> {
    let names = FIRST_NAMES.len() * LAST_NAMES.len();
    (0..AUTHORS)
        .map(|index| {
            // 173 has no factor in common with the number of names, so none comes twice.
            let name = index as usize * 173 % names;
            let first = FIRST_NAMES[name / LAST_NAMES.len()];
            let last = LAST_NAMES[name % LAST_NAMES.len()];
            Author {
                name: format!("{first} {last}"),
                site: random.below(SITES.len() as u64) as u8,
                section: random.below(SECTIONS.len() as u64) as u8,
                audience: Audience::new(random),
            }
        })
        .collect()
}

/// Makes a post and appends its text. `latest` holds each site's latest post.
fn post(
    authors: &[Author],
    text: &mut String,
    latest: &mut [Option<u32>],
    index: u32,
    random: &mut Random,
) -> Post {
    // Squared, so that few authors write much and many write little.
    let unit = random.unit();
    let author = (unit * unit * authors.len() as f64) as usize;
    let Author {
        name,
        site,
        section,
        ..
    } = &authors[author];
    let section = match random.below(5) {
        0 => random.below(SECTIONS.len() as u64) as u8,
        _ => *section,
    };
    let text_start = text.len();
    let site_name = SITES[usize::from(*site)];
    let section_name = SECTIONS[usize::from(section)];
    let mut word = || WORDS[random.below(WORDS.len() as u64) as usize];
    let mut url = format!(
        "https://{site_name}.example/{section_name}/{}-{}-",
        word(),
        word()
    );
    if index.is_multiple_of(2) {
        url.push_str(word());
        url.push('-');
    }
    // No two posts have the same number.
    url.push_str(&(u64::from(index) + 10_000).to_string());
    text.push_str(URL_OPEN);
    text.push_str(&url);
    for part in [AUTHOR_OPEN, name, SECTION_OPEN, section_name, REFERRER_OPEN] {
        text.push_str(part);
    }
    let depth = random.next() as u8;
    Post {
        text_start: text_start as u32,
        url_len: url.len() as u8,
        author: author as u8,
        section,
        depth,
        pull: depth / 2 + random.next() as u8 / 2,
        previous: latest[usize::from(*site)].replace(index),
    }
}
