//! The facts of the example `newsroom`: what browsers send, each with an id, and what a crawler fetches
//! of the posts that it hears of by them.
//!
//! Older posts have been crawled before the first fact. Of a newer one the crawler learns by its first
//! fact, and fetches it 2 minutes to 4.5 hours later, so that the first page views come before the
//! metadata. Of some posts the first try fails; some say nothing of themselves; of about one in four a
//! newsroom corrects author, section or title later, and some are taken down. What would be fetched
//! after the last fact's time is not.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat};
use serde_json::json;

use super::encode::LineWriter;
use super::pace::{HOUR_US, MINUTE_US, SECOND_US};
use super::posts::{Posts, SECTIONS};
use super::random::{Random, mix};
use super::{Generator, GeneratorError, GeneratorOptions};

/// The topic of page views, heartbeats and shares.
pub const EVENTS: &str = "events";
/// The topic of what the crawler fetched.
pub const CRAWLS: &str = "crawls";

/// So many facts are there for each post, unless their number is told.
const FACTS_PER_POST: u64 = 50;
const MIN_POSTS: u64 = 100;
const MAX_POSTS: u64 = 100_000;
/// Share of page views that a visitor opens from another page.
const GOES_ON: f64 = 0.45;
/// The first fetch comes at least so long after the first fact; the delay is doubled up to six times.
const FETCH_US: u64 = 2 * MINUTE_US;
const FETCH_DOUBLINGS: u64 = 7;
/// A try that failed is made again after this.
const AGAIN_US: u64 = 10 * MINUTE_US;
/// What an author is called until somebody says who it was.
const NOBODY: &str = "Newsroom";

/// How many facts were made of either topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Of `events`.
    pub events: u64,
    /// Of `crawls`.
    pub crawls: u64,
}

/// What a page says of itself when it is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    /// It could not be fetched.
    Failed,
    /// Nothing that is metadata.
    Mute,
    /// Not yet who wrote it.
    WithoutAuthor,
    /// That nobody in particular wrote it.
    ByNobody,
    /// Another section than that in which it ends.
    InSection(&'static str),
    /// A working title.
    Untitled,
    /// All as it stays.
    Final,
    /// It is no more.
    Gone,
}

/// Makes the facts of both topics once, in the order in which they come.
///
/// Invariants: what is due was scheduled once for each post, when its first fact came or before any;
/// nothing is due before `latest_us`, so that fetches come in the order of their times.
#[derive(Debug)]
pub struct Newsroom {
    generator: Generator,
    /// Ids of one seed are other than those of another one.
    salt: u64,
    end_us: u64,
    latest_us: u64,
    fates: Random,
    known: Vec<bool>,
    due: BTreeMap<(u64, u64), (u32, Page)>,
    scheduled: u64,
    lines: LineWriter,
}

impl Newsroom {
    /// # Errors
    ///
    /// [`GeneratorError`] names the option that is out of its range.
    pub fn new(options: &GeneratorOptions) -> Result<Self, GeneratorError> {
        let (start_us, end_us) = options.check()?;
        let posts = (options.facts / FACTS_PER_POST).clamp(MIN_POSTS, MAX_POSTS) as u32;
        let generator = Generator::new(&GeneratorOptions {
            goes_on: GOES_ON,
            posts: options.posts.or(Some(posts)),
            ..options.clone()
        })?;
        let count = generator.posts.count();
        let mut newsroom = Self {
            generator,
            salt: mix(options.seed.wrapping_add(1)),
            end_us,
            latest_us: start_us,
            fates: Random::new(mix(options.seed ^ 0x6372_6177_6c65_7221)),
            known: vec![false; count as usize],
            due: BTreeMap::new(),
            scheduled: 0,
            lines: LineWriter::new(),
        };
        let before = (0..count).filter(|p| newsroom.generator.posts.published(*p).is_none());
        for post in before.collect::<Vec<_>>() {
            let corrected_us = newsroom.fates.below(end_us - start_us);
            newsroom.schedule(post, start_us, corrected_us);
        }
        Ok(newsroom)
    }

    /// How many facts of `events` are still to come.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.generator.remaining()
    }

    /// Appends up to `facts` lines of `events`, and those of `crawls` that were fetched meanwhile.
    /// Without any of either it is the end.
    pub fn next_ndjson(
        &mut self,
        events: &mut Vec<u8>,
        crawls: &mut Vec<u8>,
        facts: usize,
    ) -> Made {
        let mut made = Made::default();
        while made.events < facts as u64 {
            let Some(fact) = self.generator.next_fact() else {
                break;
            };
            self.latest_us = self.latest_us.max(fact.ts_us);
            if !std::mem::replace(&mut self.known[fact.post as usize], true)
                && self.generator.posts.published(fact.post).is_some()
            {
                let delay_us = doubled(FETCH_US, FETCH_DOUBLINGS, &mut self.fates);
                let corrected_us = HOUR_US + self.fates.below(23 * HOUR_US);
                self.schedule(fact.post, self.latest_us + delay_us, corrected_us);
            }
            let Generator {
                posts, referrers, ..
            } = &self.generator;
            let event_id = mix(self.salt ^ fact.id);
            self.lines
                .write_event(event_id, &fact, posts, referrers, events);
            made.events += 1;
        }
        let until_us = match self.remaining() {
            0 => self.end_us,
            _ => self.latest_us,
        };
        while let Some(next) = self.due.first_entry()
            && next.key().0 < until_us
        {
            let ((at_us, _), (post, page)) = next.remove_entry();
            write_fetch(at_us, post, page, &self.generator.posts, crawls);
            made.crawls += 1;
        }
        made
    }

    /// Decides what becomes of a post: what is fetched first, and what of it is corrected how much later.
    fn schedule(&mut self, post: u32, mut at_us: u64, corrected_us: u64) {
        let fates = &mut self.fates;
        if fates.below(20) == 0 {
            self.add(at_us, post, Page::Failed);
            at_us += AGAIN_US;
        }
        let fates = &mut self.fates;
        let other = SECTIONS[fates.below(SECTIONS.len() as u64) as usize];
        let first = match fates.below(40) {
            0 => Page::Mute,
            1..=3 => Page::WithoutAuthor,
            4..=6 => Page::ByNobody,
            7..=9 => Page::InSection(other),
            10..=11 => Page::Untitled,
            _ => Page::Final,
        };
        let gone = fates.below(50) == 0;
        self.add(at_us, post, first);
        if !matches!(first, Page::Mute | Page::Final) {
            self.add(at_us + corrected_us, post, Page::Final);
        }
        if gone {
            self.add(at_us + corrected_us + HOUR_US, post, Page::Gone);
        }
    }

    fn add(&mut self, at_us: u64, post: u32, page: Page) {
        self.due.insert((at_us, self.scheduled), (post, page));
        self.scheduled += 1;
    }
}

/// A time of `least` or more, about as often between each and its double.
fn doubled(least: u64, doublings: u64, random: &mut Random) -> u64 {
    let least = least << random.below(doublings);
    least + random.below(least)
}

/// Appends a fact of `crawls`.
fn write_fetch(at_us: u64, post: u32, page: Page, posts: &Posts, out: &mut Vec<u8>) {
    let (status, text) = match page {
        Page::Failed => (503, None),
        Page::Gone => (410, None),
        Page::Mute => (200, Some("<!doctype html><title>…</title>".to_owned())),
        _ => (200, Some(metadata(post, page, posts).to_string())),
    };
    let line = json!({
        "fetched_at": time(at_us),
        "url": posts.url(post),
        "status": status,
        "page": text,
    });
    out.extend_from_slice(line.to_string().as_bytes());
    out.push(b'\n');
}

/// What a page says of itself, by schema.org.
fn metadata(post: u32, page: Page, posts: &Posts) -> serde_json::Value {
    let author = match page {
        Page::WithoutAuthor => None,
        Page::ByNobody => Some(NOBODY),
        _ => Some(posts.author(post)),
    };
    let section = match page {
        Page::InSection(section) => section,
        _ => posts.section(post),
    };
    let headline = match page {
        Page::Untitled => "Developing story".to_owned(),
        _ => headline(posts.url(post)),
    };
    let mut said = json!({
        "@context": "https://schema.org",
        "@type": "NewsArticle",
        "headline": headline,
        "articleSection": section,
    });
    if let Some(author) = author {
        said["author"] = json!({ "@type": "Person", "name": author });
    }
    if let Some(published_us) = posts.published(post) {
        said["datePublished"] = time(published_us - published_us % SECOND_US).into();
    }
    said
}

/// The words of a URL's last part as a headline.
fn headline(url: &str) -> String {
    let slug = url.rsplit('/').next().unwrap_or(url);
    let words = slug.rsplit_once('-').map_or(slug, |(words, _)| words);
    let mut letters = words.chars();
    let first = letters.next().map(|c| c.to_ascii_uppercase());
    first
        .into_iter()
        .chain(letters)
        .collect::<String>()
        .replace('-', " ")
}

fn time(at_us: u64) -> String {
    DateTime::from_timestamp_micros(at_us as i64)
        .unwrap_or_default()
        .to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[cfg(test)]
mod tests;
