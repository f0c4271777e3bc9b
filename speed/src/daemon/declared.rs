//! What a running daemon takes from the catalogue: topics that were declared since it started, and
//! fields of those that it has.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_shared::view::View;
use anabranch_shared::{Entry, Error, Log, Result, blocking};

use super::{Daemon, TopicOptions};
use crate::sources::kafka::KafkaSource;
use crate::topic::TopicStream;
use crate::wal::{Claim, RealFiles, check_claim};

impl Daemon {
    /// Sets which topics are to be open, and how. Those that the catalogue has are opened when it is
    /// followed next, the others once it has them. One that is open stays, as it was opened.
    pub fn want_topics(&self, topics: BTreeMap<String, TopicOptions>) {
        *self.wanted_topics.write() = topics;
    }

    /// Topics of which the catalogue has more than this daemon could take, and why.
    pub fn untaken(&self) -> BTreeMap<String, String> {
        self.untaken.read().clone()
    }

    /// Opens a topic of the catalogue: claims its partition, replays its WAL, begins to read its
    /// source.
    pub(super) async fn open_topic(&self, name: &str, settings: &TopicOptions) -> Result<()> {
        let entry = self.catalogue.current();
        let known = entry
            .topics
            .get(name)
            .ok_or_else(|| Error::NotFound(format!("topic `{name}` is not in the catalogue")))?;
        let claim = match known.partitions.values().any(|owner| *owner == self.wal) {
            true => Claim::Claimed,
            false => Claim::Unclaimed,
        };
        let (root, topic) = (self.options.wal.clone(), name.to_owned());
        blocking(move || {
            let checked = check_claim(&root, &topic, claim, Arc::new(RealFiles));
            checked.map_err(crate::topic::appender::wal_error)
        })
        .await?;
        let has_source = settings.kafka.is_some();
        let claimed = self.catalogue.claim_partition(name, &self.wal, has_source);
        let partition = claimed.await?;
        let now_ms = self.options.now_ms();
        let log = Arc::new(Log::open(&self.storage, &known.topic, now_ms).await?);
        let (stream, thread) = TopicStream::open(
            log,
            partition,
            settings,
            &self.options,
            &self.bounds,
            &self.give_way,
            &self.failure,
        )
        .await?;
        self.threads.lock().push(thread);
        if let Some(kafka) = settings.kafka.clone() {
            let (catalogue, failure) = (&self.catalogue, &self.failure);
            let source = KafkaSource::start(&stream, catalogue, kafka, &self.wal, failure)?;
            let mut sources = BTreeMap::clone(&self.sources());
            sources.insert(name.to_owned(), Arc::new(source));
            *self.sources.write() = Arc::new(sources);
        }
        let mut topics = BTreeMap::clone(&self.topics());
        topics.insert(name.to_owned(), stream);
        *self.topics.write() = Arc::new(topics);
        self.opened.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Takes the topics and the fields that the catalogue has and this daemon has not. What can't be
    /// taken is tried again when the catalogue is followed next.
    pub(super) async fn take_declared(&self, entry: &Entry) {
        let _guard = self.taking.lock().await;
        let open = self.topics();
        let wanted = self.wanted_topics.read().clone();
        for (name, settings) in &wanted {
            if !open.contains_key(name) && entry.topics.contains_key(name) {
                let opened = self.open_topic(name, settings).await;
                self.note_taken(name, "is declared, and can't be opened", opened);
            }
        }
        for (name, stream) in open.iter() {
            let Some(known) = entry.topics.get(name) else {
                continue;
            };
            if *stream.topic() != known.topic {
                let fields = wanted
                    .get(name)
                    .map_or(&[][..], |settings| &settings.fields);
                let taken = stream.take_fields(&known.topic, fields).await;
                self.note_taken(name, "has new fields, which can't be taken", taken);
            }
        }
    }

    /// Remembers what could not be taken of a topic; the same trouble is logged once.
    fn note_taken(&self, topic: &str, what: &str, taken: Result<()>) {
        let mut untaken = self.untaken.write();
        let Err(e) = taken else {
            tracing::info!(%topic, "took what was declared of the topic");
            untaken.remove(topic);
            return;
        };
        let why = format!("topic `{topic}` {what}: {e}");
        if untaken.get(topic) != Some(&why) {
            tracing::error!(%topic, error = %why, "it is tried again");
            untaken.insert(topic.to_owned(), why);
        }
    }

    /// Why a view can't be served that reads a field which this daemon has not taken.
    pub(super) fn not_taken(&self, view: &View, field: &str) -> Error {
        let (name, topic) = (view.name(), &view.topic().name);
        let why = self.untaken.read().get(topic).cloned();
        let why = why.map_or(String::new(), |why| format!(" ({why})"));
        Error::Unavailable(format!(
            "view `{name}` reads field `{field}` of topic `{topic}`, which was declared after this daemon started and is not taken yet{why}; try again, or restart the daemon"
        ))
    }
}

impl TopicStream {
    /// A field that a view reads and this daemon has not taken.
    pub(crate) fn field_not_taken<'a>(&self, view: &'a View) -> Option<&'a str> {
        let schema = self.log().schema();
        let mut fields = view.fact_schema().fields().iter();
        let unknown = fields.find(|f| schema.field_with_name(f.name()).is_err());
        unknown.map(|f| f.name().as_str())
    }
}
