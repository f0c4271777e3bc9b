//! HTTP/1.1 over one kept-alive blocking socket: a request's bytes out, an answer in. Knows just
//! enough for the daemon's answers: status, `content-length` and chunked bodies.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// No answer of a daemon that works takes so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// An answer's status and body; the body is the connection's own memory.
#[derive(Debug)]
pub struct Answer<'c> {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: &'c [u8],
}

impl Answer<'_> {
    /// Refuses every status but 200, with what the daemon said.
    pub fn ok(&self) -> Result<()> {
        let said = String::from_utf8_lossy(self.body);
        ensure!(
            self.status == 200,
            "the daemon answered {}: {said}",
            self.status
        );
        Ok(())
    }

    /// The number after `"key":` in the body. An answer is not parsed, because that costs more
    /// than the rest of the request.
    pub fn number(&self, key: &str) -> Option<u64> {
        let pattern = format!("\"{key}\":");
        let at = self
            .body
            .windows(pattern.len())
            .position(|w| w == pattern.as_bytes())?;
        let digits = &self.body[at + pattern.len()..];
        let end = digits
            .iter()
            .position(|b| !b.is_ascii_digit())
            .unwrap_or(digits.len());
        std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
    }
}

/// `HOST:PORT` of an `http://` URL.
pub fn host(url: &str) -> Result<&str> {
    let rest = url
        .strip_prefix("http://")
        .with_context(|| format!("`{url}` is not a URL like `http://127.0.0.1:8787`"))?;
    let host = rest.split('/').next().unwrap_or(rest);
    ensure!(
        host.contains(':'),
        "`{url}` names no port; write `http://HOST:PORT`"
    );
    Ok(host)
}

/// The bytes of a request; `headers` are whole lines without their ends.
pub fn request(
    method: &str,
    path: &str,
    host: &str,
    headers: &[&str],
    body_bytes: usize,
) -> Vec<u8> {
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {body_bytes}\r\n");
    for header in headers {
        head += header;
        head += "\r\n";
    }
    head += "\r\n";
    let mut bytes = Vec::with_capacity(head.len() + body_bytes);
    bytes.extend_from_slice(head.as_bytes());
    bytes
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    host: String,
    socket: BufReader<TcpStream>,
    line: String,
    body: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub fn open(host: &str) -> Result<Self> {
        let socket =
            TcpStream::connect(host).with_context(|| format!("no daemon answers at `{host}`"))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            host: host.to_owned(),
            socket: BufReader::new(socket),
            line: String::new(),
            body: Vec::new(),
        })
    }

    /// Sends a whole request and reads its answer.
    pub fn send(&mut self, request: &[u8]) -> Result<Answer<'_>> {
        self.socket.get_mut().write_all(request)?;
        let status = self.head_line()?;
        let status = status
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .with_context(|| format!("`{status}` is not the start of an HTTP answer"))?;
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = self.head_line()?.to_ascii_lowercase();
            match line.split_once(':') {
                None if line.is_empty() => break,
                None => bail!("`{line}` is not a header"),
                Some(("content-length", value)) => length = value.trim().parse()?,
                Some(("transfer-encoding", value)) => chunked = value.trim() == "chunked",
                Some(_) => {}
            }
        }
        self.body.clear();
        match chunked {
            false => self.read_body(length)?,
            true => self.read_chunks()?,
        }
        Ok(Answer {
            status,
            body: &self.body,
        })
    }

    /// Asks for a path.
    pub fn get(&mut self, path: &str) -> Result<Answer<'_>> {
        let request = request("GET", path, &self.host, &[], 0);
        self.send(&request)
    }

    fn head_line(&mut self) -> Result<String> {
        self.line.clear();
        let read = self.socket.read_line(&mut self.line)?;
        ensure!(read > 0, "the daemon closed the connection");
        Ok(self.line.trim_end().to_owned())
    }

    fn read_body(&mut self, bytes: usize) -> Result<()> {
        let start = self.body.len();
        self.body.resize(start + bytes, 0);
        self.socket.read_exact(&mut self.body[start..])?;
        Ok(())
    }

    fn read_chunks(&mut self) -> Result<()> {
        loop {
            let line = self.head_line()?;
            let size = line.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size.trim(), 16)
                .with_context(|| format!("`{line}` is not the size of a chunk"))?;
            self.read_body(size)?;
            ensure!(
                self.head_line()?.is_empty(),
                "a chunk is longer than it said"
            );
            if size == 0 {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Answers one request after another with `answers`, whatever they ask.
    fn answered(answers: &'static [&'static str], length: usize) -> Result<Connection> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let host = listener.local_addr()?.to_string();
        std::thread::spawn(move || -> Result<()> {
            let (mut socket, _) = listener.accept()?;
            for answer in answers {
                socket.read_exact(&mut vec![0; length])?;
                socket.write_all(answer.as_bytes())?;
            }
            Ok(())
        });
        Connection::open(&host)
    }

    #[test]
    fn answers_on_one_connection_are_told_apart() -> Result<()> {
        let mut connection = answered(
            &[
                "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"facts\":3}",
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n",
                "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nfull",
            ],
            4,
        )?;
        let answer = connection.send(b"one.")?;
        answer.ok()?;
        assert_eq!(answer.number("facts"), Some(3));
        assert_eq!(answer.number("dead"), None);
        assert_eq!(connection.send(b"two.")?.body, b"abc0123456789");
        let refused = connection.send(b"3333")?.ok();
        let said = refused.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(said.contains("503") && said.contains("full"), "{said}");
        let closed = connection.send(b"four");
        assert!(closed.is_err());
        Ok(())
    }

    #[test]
    fn a_url_has_to_name_a_port() -> Result<()> {
        assert_eq!(host("http://127.0.0.1:8787/")?, "127.0.0.1:8787");
        assert!(host("http://localhost").is_err());
        assert!(host("127.0.0.1:8787").is_err());
        Ok(())
    }
}
