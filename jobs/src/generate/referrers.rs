//! Where readers come from: the kinds of referrers, and the shares that an author's readers have.

use super::posts::{SECTIONS, SITES};
use super::random::{Random, mix};

/// What the `referrer` of a fact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Referrer {
    /// None: typed, bookmarked, or from an app that doesn't say.
    Direct,
    /// An entry of [`Referrers`].
    Listed(u16),
    /// The address of another post.
    Post(u32),
}

const SEARCH: [&str; 5] = [
    "https://www.google.com/",
    "https://www.google.com/",
    "https://www.google.de/",
    "https://www.bing.com/",
    "https://duckduckgo.com/",
];
const FACEBOOK: [&str; 4] = [
    "https://www.facebook.com/",
    "https://m.facebook.com/",
    "https://m.facebook.com/",
    "https://l.facebook.com/",
];
const OTHER: [&str; 8] = [
    "https://www.reddit.com/",
    "https://news.ycombinator.com/",
    "https://www.linkedin.com/",
    "https://flipboard.com/",
    "https://news.google.com/",
    "https://www.instagram.com/",
    "https://en.wikipedia.org/",
    "android-app://com.google.android.gm/",
];
/// Short links on t.co; the rest of Twitter's traffic names the site itself.
const SHORT_LINKS: u16 = 256;

const FRONTS: u16 = SITES.len() as u16;
const SECTION_FRONTS: u16 = FRONTS * SECTIONS.len() as u16;
const SEARCH_START: u16 = FRONTS + SECTION_FRONTS;
const FACEBOOK_START: u16 = SEARCH_START + SEARCH.len() as u16;
const OTHER_START: u16 = FACEBOOK_START + FACEBOOK.len() as u16;
const TWITTER: u16 = OTHER_START + OTHER.len() as u16;
const SHORT_LINKS_START: u16 = TWITTER + 1;

/// The addresses that [`Referrer::Listed`] names: sites' front pages, their sections' front pages,
/// search, Facebook, others, Twitter.
#[derive(Debug)]
pub(super) struct Referrers {
    listed: Vec<String>,
}

impl Referrers {
    pub(super) fn new() -> Self {
        let mut listed: Vec<String> = SITES
            .iter()
            .map(|site| format!("https://{site}.example/"))
            .collect();
        for site in SITES {
            listed.extend(
                SECTIONS
                    .iter()
                    .map(|section| format!("https://{site}.example/{section}")),
            );
        }
        listed.extend(
            SEARCH
                .iter()
                .chain(&FACEBOOK)
                .chain(&OTHER)
                .map(ToString::to_string),
        );
        listed.push("https://twitter.com/".to_owned());
        listed.extend((0..SHORT_LINKS).map(short_link));
        Self { listed }
    }

    pub(super) fn get(&self, index: u16) -> &str {
        &self.listed[usize::from(index)]
    }
}

/// A t.co address, of ten letters and digits.
fn short_link(index: u16) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut bits = mix(u64::from(index) + 1);
    let mut link = String::from("https://t.co/");
    for _ in 0..10 {
        link.push(char::from(DIGITS[(bits % 62) as usize]));
        bits /= 62;
    }
    link
}

/// Where a post stands on its site.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) site: u8,
    pub(super) section: u8,
    pub(super) previous: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Direct,
    Internal,
    Search,
    Facebook,
    Twitter,
    Other,
}

/// All kinds with their usual shares, in thousandths.
const KINDS: [(Kind, u64); 6] = [
    (Kind::Direct, 260),
    (Kind::Internal, 250),
    (Kind::Search, 220),
    (Kind::Facebook, 140),
    (Kind::Twitter, 60),
    (Kind::Other, 70),
];

/// An author's readers: which share of them comes from where.
///
/// Facebook's share differs most between authors, from about 3 to 50 %, and independently of how
/// much is read of them, so the authors with the most Facebook traffic aren't those with the most
/// traffic.
#[derive(Debug)]
pub(super) struct Audience {
    /// Cumulative shares, out of 2^16, in the order of `KINDS`; the last one takes what is left.
    thresholds: [u16; KINDS.len() - 1],
}

impl Audience {
    pub(super) fn new(random: &mut Random) -> Self {
        // Tenths of the usual share.
        const FACEBOOK_TENTHS: [u64; 8] = [2, 4, 6, 8, 10, 14, 25, 60];
        let shares = KINDS.map(|(kind, usual)| match kind {
            Kind::Facebook => usual * FACEBOOK_TENTHS[random.below(8) as usize],
            _ => usual * (5 + random.below(11)),
        });
        let sum: u64 = shares.iter().sum();
        let mut thresholds = [0; KINDS.len() - 1];
        let mut below = 0;
        for (threshold, share) in thresholds.iter_mut().zip(shares) {
            below += share;
            *threshold = ((below << 16) / sum).min(u64::from(u16::MAX)) as u16;
        }
        Self { thresholds }
    }

    /// Where a reader of the post at `place` came from.
    pub(super) fn pick(&self, place: Place, random: &mut Random) -> Referrer {
        let bits = random.next();
        let draw = bits as u16;
        let kind = self
            .thresholds
            .iter()
            .take_while(|&&threshold| draw >= threshold)
            .count();
        // The bits above those that chose the kind.
        let of = |count: usize| (((bits >> 32) * count as u64) >> 32) as u16;
        Referrer::Listed(match KINDS[kind].0 {
            Kind::Direct => return Referrer::Direct,
            Kind::Internal => match (of(4), place.previous) {
                (0, Some(previous)) => return Referrer::Post(previous),
                (1, _) => {
                    let site_fronts = u16::from(place.site) * SECTIONS.len() as u16;
                    FRONTS + site_fronts + u16::from(place.section)
                }
                _ => u16::from(place.site),
            },
            Kind::Search => SEARCH_START + of(SEARCH.len()),
            Kind::Facebook => FACEBOOK_START + of(FACEBOOK.len()),
            Kind::Twitter => match of(4) {
                0 => TWITTER,
                // The bits between: `of` has used the upper ones.
                _ => SHORT_LINKS_START + (bits >> 16) as u16 % SHORT_LINKS,
            },
            Kind::Other => OTHER_START + of(OTHER.len()),
        })
    }
}
