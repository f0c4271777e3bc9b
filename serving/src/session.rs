//! What a client's connection keeps between its statements: how they read, how long they may take, and
//! what its transaction has pinned. A door adds its protocol.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_shared::{Error, Pin, Result};
use arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::Expr;

use crate::caller::Caller;
use crate::dialect::Dialect;
use crate::identity::Identity;
use crate::reading::Reading;
use crate::service::{Answer, Asking, Description, SqlService};

/// A session of a client.
#[derive(Debug)]
pub(crate) struct Session {
    service: Arc<SqlService>,
    caller: Caller,
    /// What its door has besides.
    pub(crate) dialect: Option<Arc<dyn Dialect>>,
    /// How statements read.
    pub(crate) reading: Reading,
    /// How long a statement may take, where the session says less than the settings.
    pub(crate) timeout: Option<Duration>,
    pinned: Option<Pinned>,
}

/// What a transaction sees.
#[derive(Debug)]
enum Pinned {
    /// Nothing was asked yet.
    Wanted,
    /// This, since then.
    There(Box<Pin>, Instant),
}

impl Session {
    pub(crate) fn new(service: Arc<SqlService>, caller: Caller) -> Self {
        Self {
            service,
            caller,
            dialect: None,
            reading: Reading::default(),
            timeout: None,
            pinned: None,
        }
    }

    /// Who asks, by which way.
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Who asks.
    pub(crate) fn identity(&self) -> &Identity {
        &self.caller.identity
    }

    /// The same user, who may do something else now.
    pub(crate) fn set_identity(&mut self, identity: Identity) {
        self.caller.identity = identity;
    }

    /// Lets all statements until [`Session::let_go`] see what the first of them sees.
    pub(crate) fn hold(&mut self) {
        self.pinned = Some(Pinned::Wanted);
    }

    /// Lets each statement see what is there when it is executed.
    pub(crate) fn let_go(&mut self) {
        self.pinned = None;
    }

    /// What the transaction has pinned; pins it where it wants that and nothing was asked yet.
    async fn pin(&mut self) -> Result<()> {
        match &self.pinned {
            None => Ok(()),
            Some(Pinned::Wanted) => {
                let pin = self
                    .service
                    .pin_all(&self.reading, self.caller.identity.rights())
                    .await?;
                self.pinned = Some(Pinned::There(Box::new(pin), Instant::now()));
                Ok(())
            }
            Some(Pinned::There(_, since)) => {
                let most = self.service.pin_for();
                match since.elapsed() > most {
                    true => Err(Error::Conflict(format!(
                        "the transaction began to read {} s ago, and files that it reads are kept for {} s (half of `grace` in `[storage]`); begin another one",
                        since.elapsed().as_secs(),
                        most.as_secs()
                    ))),
                    false => Ok(()),
                }
            }
        }
    }

    fn asking<'a>(&'a self, text: &'a str, values: &'a [Expr]) -> Asking<'a> {
        let most = self.service.timeout();
        Asking {
            caller: &self.caller,
            text,
            reading: &self.reading,
            limit: self.timeout.map_or(most, |timeout| timeout.min(most)),
            values,
            pin: match &self.pinned {
                Some(Pinned::There(pin, _)) => Some(pin),
                _ => None,
            },
            dialect: self.dialect.as_ref(),
        }
    }

    /// Answers a statement.
    ///
    /// # Errors
    /// Those of [`SqlService::query_by`]; `Conflict` where its transaction is too old.
    pub(crate) async fn execute(&mut self, text: &str, values: &[Expr]) -> Result<Answer> {
        self.pin().await?;
        let service = self.service.clone();
        service.ask(&self.asking(text, values)).await
    }

    /// What a statement takes and gives; of its parameters the types of some may be stated. Nothing
    /// that it pins is kept.
    ///
    /// # Errors
    /// As [`Session::execute`].
    pub(crate) async fn prepare(
        &mut self,
        text: &str,
        stated: &[Option<DataType>],
    ) -> Result<Description> {
        self.pin().await?;
        let service = self.service.clone();
        service.describe(&self.asking(text, &[]), stated).await
    }

    /// The service that answers.
    pub(crate) fn service(&self) -> &Arc<SqlService> {
        &self.service
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use anabranch_shared::{ErrorKind, Pinner, ReadMode, Relation, Storage};
    use async_trait::async_trait;

    use super::*;
    use crate::limits::QueryLimits;
    use crate::metrics::QueryMetrics;
    use crate::service::ServingOptions;

    #[derive(Debug)]
    struct Nothing;

    #[async_trait]
    impl Pinner for Nothing {
        async fn relations(&self) -> Result<Vec<Relation>> {
            Ok(vec![])
        }

        async fn pin(&self, _: &[String], _: ReadMode) -> Result<Pin> {
            Ok(Pin::default())
        }
    }

    #[tokio::test]
    async fn a_transaction_that_is_too_old_ends() {
        let options = ServingOptions {
            memory_bytes: 1 << 20,
            threads: 1,
            timeout: Duration::from_secs(10),
            limits: QueryLimits {
                pin_for: Duration::from_millis(50),
                ..Default::default()
            },
            metrics: QueryMetrics::default(),
            auditor: None,
        };
        let storage = Storage::folder(&std::env::temp_dir()).unwrap();
        let service = SqlService::new(Arc::new(Nothing), &storage, options).unwrap();
        let mut session = Session::new(Arc::new(service), Caller::this_process());
        session.hold();
        session.execute("SELECT 1", &[]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
        let e = session.execute("SELECT 1", &[]).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Conflict, "{e}");
        session.let_go();
        session.execute("SELECT 1", &[]).await.unwrap();
    }
}
