//! What is done, by the code of the commands.

use std::sync::Arc;

use anabranch_shared::{Error, Result, Stop};
use serde_json::{Value, json};

use super::request::{OperationRequest, answers_by};
use super::running::Operation;
use crate::project::context::{Context, no_view};
use crate::reader::client::Client;
use crate::work::apply::whole::{Tells, apply};
use crate::work::apply::{ApplyOptions, roll_back, rolled_back_text};
use crate::work::build::text::{json as build_json, table};
use crate::work::build::{Build, build_view};
use crate::work::dead_letters::retry;
use crate::work::doer::Why;
use crate::work::judge::text::text as diff_text;
use crate::work::judge::{JudgeOptions, Judgement, judge, sides};
use crate::work::plan::Plan;
use crate::work::served;
use crate::work::verify::text::{json as verify_json, text as verify_text};
use crate::work::verify::{Part, VerifyOptions};
use crate::work::verify_view::{options, verify_view_with};

/// What the history of jobs calls whoever wanted a job that is begun here.
const TRIGGER: &str = "console";

/// What came of an operation.
pub(super) struct Done {
    pub(super) result: Value,
    /// Whether it is to be looked at.
    pub(super) found_something: bool,
}

impl Done {
    fn well(result: Value) -> Self {
        Self {
            result,
            found_something: false,
        }
    }
}

/// Does it.
pub(super) async fn run(
    context: &Context,
    operation: &Arc<Operation>,
    planned: Option<Plan>,
) -> Result<Done> {
    let request = operation.request();
    match request {
        OperationRequest::Refresh { view } => build(context, operation, view, Build::Refresh).await,
        OperationRequest::Rebuild { view } => build(context, operation, view, Build::Rebuild).await,
        OperationRequest::Verify { view } => verify(context, operation, view).await,
        OperationRequest::Diff {
            view,
            a,
            b,
            only_where,
        } => {
            let (a, b) = sides(context, view, a.as_deref(), b.as_deref())?;
            diff(context, operation, (&a, &b), only_where.clone()).await
        }
        OperationRequest::Apply {
            cut_over, message, ..
        } => {
            let planned = planned.ok_or_else(|| Error::Internal("no plan".into()))?;
            let options = ApplyOptions {
                why: why(operation, message.as_ref()),
                stop: operation.stop(),
                ..ApplyOptions::default()
            };
            let told: &dyn Tells = operation.as_ref();
            let applied = apply(context, &planned, *cut_over, &options, told).await?;
            Ok(Done {
                result: applied.json(&planned),
                found_something: applied.is_stopped(),
            })
        }
        OperationRequest::RollBack {
            view,
            generation,
            message,
        } => {
            context.catalogue.refresh().await?;
            answers_by(context, view, *generation)?;
            let why = why(operation, message.as_ref());
            let (from, to) = roll_back(context, view, &why, &operation.stop()).await?;
            operation.says(&rolled_back_text(view, from, to))?;
            Ok(Done::well(json!({ "view": view, "from": from, "to": to })))
        }
        OperationRequest::Retry { .. } => retry_letters(context, operation).await,
    }
}

fn why(operation: &Operation, message: Option<&String>) -> Why {
    Why {
        by: operation.by().map(str::to_owned),
        message: message.cloned(),
    }
}

async fn build(
    context: &Context,
    operation: &Arc<Operation>,
    view: &str,
    build: Build,
) -> Result<Done> {
    let views = &context.project.views;
    let settings = views.iter().find(|v| v.name == view);
    let settings = settings.ok_or_else(|| no_view(view, views.iter().map(|v| &v.name)))?;
    let (stop, progress) = (operation.stop(), Arc::default());
    operation.builds(view, &progress);
    let report = build_view(context, settings, build, TRIGGER, &stop, &progress).await?;
    let reports = [report];
    if build != Build::Refresh {
        served::wait(context, &reports, &stop).await?;
    }
    operation.says(&table(&reports))?;
    let [report] = &reports;
    Ok(Done::well(build_json(report)))
}

async fn verify(context: &Context, operation: &Arc<Operation>, view: &str) -> Result<Done> {
    let options: VerifyOptions = options(context, Part::Whole, &operation.stop());
    operation.watches(&options.progress);
    let verified = verify_view_with(context, view, TRIGGER, &options).await?;
    operation.says(&verify_text(view, &verified))?;
    Ok(Done {
        result: verify_json(view, &verified),
        found_something: !verified.comparison.is_equal(),
    })
}

async fn diff(
    context: &Context,
    operation: &Arc<Operation>,
    (a, b): (&str, &str),
    only_where: Option<String>,
) -> Result<Done> {
    let options = JudgeOptions {
        only_where,
        ..JudgeOptions::of(&context.project, Stop::by_flag(&operation.stop()))
    };
    let judged = match judge(context, (a, b), &options).await? {
        Judgement::Compared(judged) => judged,
        Judgement::OtherGrain(why) => return Err(Error::Invalid(why)),
    };
    operation.says(&diff_text(&judged))?;
    Ok(Done {
        result: json!(judged),
        found_something: !judged.diff.is_equal(),
    })
}

async fn retry_letters(context: &Context, operation: &Arc<Operation>) -> Result<Done> {
    let request = operation.request().retry()?;
    let request = request.ok_or_else(|| Error::Internal("no retry".into()))?;
    let open = async || {
        let found = Client::find(&context.storage).await?;
        found.ok_or_else(|| Error::Unavailable("the daemon does not answer itself".into()))
    };
    let report = retry(context, &request, open).await?;
    operation.says(&report.text(request.dry_run))?;
    Ok(Done {
        result: json!(report),
        found_something: report.failed > 0,
    })
}
