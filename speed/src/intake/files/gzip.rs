//! gzip of any number of members, also with zeros after one: tapes and blocks of devices pad with them, and `gzip` passes
//! over them too.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

/// What a member begins with.
const MAGIC: u8 = 0x1f;

/// Unpacks a stream.
pub(super) struct Gunzip<R> {
    /// None once the stream has ended, or failed.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Gunzip<R> {
    pub(super) fn new(stream: R) -> Self {
        Self {
            member: Some(GzDecoder::new(stream)),
        }
    }

    /// Goes on to the next member; there is none where nothing but zeros follows.
    fn next_member(&mut self) -> io::Result<()> {
        let Some(ended) = self.member.take() else {
            return Ok(());
        };
        let mut stream = ended.into_inner();
        loop {
            let ahead = stream.fill_buf()?;
            if ahead.is_empty() {
                return Ok(());
            }
            let zeros = ahead.iter().take_while(|byte| **byte == 0).count();
            let next = ahead.get(zeros).copied();
            stream.consume(zeros);
            match next {
                None => {}
                Some(MAGIC) => {
                    self.member = Some(GzDecoder::new(stream));
                    return Ok(());
                }
                Some(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "something that is not gzip follows its end",
                    ));
                }
            }
        }
    }
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while let Some(member) = &mut self.member {
            match member.read(buffer)? {
                0 => self.next_member()?,
                read => return Ok(read),
            }
        }
        Ok(0)
    }
}
