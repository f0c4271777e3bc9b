//! Who may come in at a node's doors, by the project's settings: nothing is listened on beyond this
//! machine without users and encryption, unless somebody says so in as many words.

use std::net::SocketAddr;

use anabranch_serving::{Access, ServerTls, Users};
use anabranch_shared::settings::Project;
use anabranch_shared::{Error, Result, WallClock};
use tokio::net::TcpListener;

use crate::reader::daemon_status::DoorStatus;

/// A door's place, before anybody is let in.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) listener: TcpListener,
    pub(super) at: SocketAddr,
    pub(super) status: DoorStatus,
}

/// The users and the certificate of a project.
///
/// # Errors
/// What is wrong with their files.
pub(super) fn open(project: &Project) -> Result<Access> {
    let (users, tls) = (&project.users.file, &project.tls.files);
    Ok(Access {
        users: users
            .as_deref()
            .map(|file| Users::open(file, WallClock::default()))
            .transpose()?,
        tls: tls.as_ref().map(ServerTls::open).transpose()?,
    })
}

/// Listens for a door that is called `name`, on the address of a setting.
///
/// # Errors
/// `Invalid` for an address that other machines reach where everybody would be let in, or nothing be
/// encrypted; `Unavailable` where it can't be listened on.
pub(super) async fn listen(
    project: &Project,
    name: &str,
    (address, setting): (&str, &str),
) -> Result<Place> {
    let cannot = |e: std::io::Error| {
        Error::Unavailable(format!("can't listen on `{address}` ({setting}): {e}"))
    };
    let all = tokio::net::lookup_host(address).await.map_err(cannot)?;
    let all: Vec<SocketAddr> = all.collect();
    let is_beyond = !all.iter().all(|a| a.ip().to_canonical().is_loopback());
    let (has_users, is_encrypted) = (project.users.file.is_some(), project.tls.files.is_some());
    if is_beyond {
        let mut missing = Vec::new();
        if !has_users && !project.users.insecure_no_users {
            missing.push("anybody there could do everything (`file` in `[users]` says who may do what; `insecure_no_users = true` there, that this is meant)");
        }
        if !is_encrypted && !project.tls.insecure_no_tls {
            missing.push("nothing would be encrypted (`certificate` and `key` in `[tls]`; `insecure_no_tls = true` there says that this is meant)");
        }
        if !missing.is_empty() {
            return Err(Error::Invalid(format!(
                "{setting} = `{address}`: other machines would reach it, and {}; or listen on 127.0.0.1 or ::1",
                missing.join(", and ")
            )));
        }
    }
    let listener = TcpListener::bind(all.as_slice()).await.map_err(cannot)?;
    let at = listener.local_addr().map_err(cannot)?;
    Ok(Place {
        listener,
        at,
        status: DoorStatus {
            name: name.to_owned(),
            address: at.to_string(),
            is_beyond,
            has_users,
            is_encrypted,
        },
    })
}
