//! HTTP/2 frame by frame, for what no client sends: header blocks are whatever bytes a test writes, and
//! streams are left open, broken off, or answered out of order.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::client::TIMEOUT;

/// Frame types (RFC 9113 section 6).
#[allow(missing_docs, reason = "named as in the RFC")]
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Of `HEADERS` and `DATA`: nothing more comes on this stream.
pub const END_STREAM: u8 = 1;
/// Of `HEADERS` and `CONTINUATION`: the header block ends.
pub const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// `CANCEL` of `RST_STREAM`.
pub const CANCEL: u32 = 8;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How a stream ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// The status, if there was an answer.
    pub status: Option<u16>,
    /// The code of the reset, if there was one; 0 is none.
    pub reset: Option<u32>,
    /// Whether all of the answer came.
    pub complete: bool,
}

/// Name and value of a field, written as they are.
pub type Field<'a> = (&'a [u8], &'a [u8]);

/// A header block: each field a literal without indexing, not Huffman-coded (RFC 7541 section 6.2.2).
pub fn block(fields: &[Field<'_>]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(text.len(), &mut block);
            block.extend_from_slice(text);
        }
    }
    block
}

/// An integer with a 7-bit prefix (RFC 7541 section 5.1).
fn length(mut value: usize, block: &mut Vec<u8>) {
    if value < 127 {
        block.push(value as u8);
        return;
    }
    block.push(127);
    value -= 127;
    while value >= 128 {
        block.push((value % 128) as u8 | 128);
        value /= 128;
    }
    block.push(value as u8);
}

/// A connection, its preface sent.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    streams: BTreeMap<u32, Ended>,
    open: bool,
}

impl Connection {
    /// Connects, and asks for no header compression by reference and for no flow control to speak of.
    #[track_caller]
    pub fn open(to: SocketAddr) -> Connection {
        let connect = || -> io::Result<TcpStream> {
            let stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            Ok(stream)
        };
        let stream = connect().unwrap_or_else(|error| panic!("cannot connect to {to}: {error}"));
        let mut connection = Connection { stream, streams: BTreeMap::new(), open: true };
        connection.bytes(PREFACE);
        let mut settings = Vec::new();
        for (id, value) in [(1_u16, 0_u32), (4, 0x7fff_ffff)] {
            settings.extend(id.to_be_bytes());
            settings.extend(value.to_be_bytes());
        }
        connection.frame(kind::SETTINGS, 0, 0, &settings);
        connection.frame(kind::WINDOW_UPDATE, 0, 0, &0x7000_0000_u32.to_be_bytes());
        connection
    }

    /// Writes a frame. The peer may be gone, which shows in [`Connection::ended`].
    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a payload of a few bytes").to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.bytes(&[&head, payload].concat());
    }

    /// A request's or trailers' `HEADERS`, in one frame.
    pub fn headers(&mut self, stream: u32, fields: &[Field<'_>], flags: u8) {
        self.frame(kind::HEADERS, flags | END_HEADERS, stream, &block(fields));
    }

    /// Breaks a stream off.
    pub fn cancel(&mut self, stream: u32) {
        self.frame(kind::RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
    }

    /// Writes bytes that need be no frame.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.open &= self.stream.write_all(bytes).is_ok();
    }

    /// Reads until these streams have ended, or the connection has. A stream that is not there has not.
    pub fn ended(&mut self, streams: &[u32]) -> BTreeMap<u32, Ended> {
        let over = |ended: &Ended| ended.complete || ended.reset.is_some();
        while !streams.iter().all(|id| self.streams.get(id).is_some_and(over)) {
            if self.read_frame().is_err() {
                break;
            }
        }
        self.streams.clone()
    }

    /// The one stream of this id, as [`Connection::ended`].
    pub fn end_of(&mut self, stream: u32) -> Ended {
        self.ended(&[stream]).get(&stream).copied().unwrap_or_default()
    }

    fn read_frame(&mut self) -> io::Result<()> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head)?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.stream.read_exact(&mut payload)?;
        let id = u32::from_be_bytes(id);
        match kind {
            kind::SETTINGS if flags & ACK == 0 => self.frame(kind::SETTINGS, ACK, 0, &[]),
            kind::PING if flags & ACK == 0 => self.frame(kind::PING, ACK, 0, &payload),
            kind::HEADERS => {
                let ended = self.streams.entry(id).or_default();
                // 1xx responses precede the one that counts, and trailers have no status.
                ended.status = status(&payload).or(ended.status);
                ended.complete |= flags & END_STREAM != 0;
            }
            kind::DATA => {
                let ended = self.streams.entry(id).or_default();
                ended.complete |= flags & END_STREAM != 0;
            }
            kind::RST_STREAM => {
                let code = payload.try_into().map(u32::from_be_bytes).unwrap_or_default();
                self.streams.entry(id).or_default().reset = Some(code);
            }
            // Of streams that it would still answer, it says nothing went wrong.
            kind::GOAWAY if payload.get(4..8) != Some(&[0; 4]) => {
                return Err(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    "the peer said goodbye",
                ));
            }
            _ => {}
        }
        Ok(())
    }
}

/// The `:status` at the start of a header block (RFC 7541 appendices A and B), where nothing was indexed.
fn status(block: &[u8]) -> Option<u16> {
    // An encoder may say first how large its table is.
    let block = match block {
        [size, rest @ ..] if size >> 5 == 1 => rest,
        block => block,
    };
    match block {
        [indexed @ 0x88..=0x8e, ..] => {
            [200, 204, 206, 304, 400, 404, 500].get(usize::from(indexed - 0x88)).copied()
        }
        // A literal, with or without indexing, or never to be indexed, named by the table's entry 8.
        [0x48 | 0x08 | 0x18, 3, digits @ ..] => {
            std::str::from_utf8(digits.get(..3)?).ok()?.parse().ok()
        }
        [0x48 | 0x08 | 0x18, coded, text @ ..] if coded & 0x80 != 0 => {
            huffman_digits(text.get(..usize::from(coded & 0x7f))?)
        }
        _ => None,
    }
}

/// Three digits, Huffman-coded: 0, 1 and 2 take five bits, the others six.
fn huffman_digits(coded: &[u8]) -> Option<u16> {
    let bits = coded.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
    let mut left = coded.len() * 8;
    let mut number = 0;
    for _ in 0..3 {
        let five = left.checked_sub(5).map(|left| bits >> left & 31)?;
        let (digit, used) = if five < 3 {
            (five, 5)
        } else {
            (left.checked_sub(6).map(|left| bits >> left & 63)?.checked_sub(0x16)?, 6)
        };
        left -= used;
        number = number * 10 + u16::try_from(digit).ok()?;
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_however_it_is_written() {
        assert_eq!(status(&[0x88]), Some(200));
        assert_eq!(status(&[0x20, 0x8d]), Some(404));
        assert_eq!(status(b"\x08\x03401"), Some(401));
        // 4 is 011010, 0 is 00000, 3 is 011001.
        assert_eq!(status(&[0x48, 0x83, 0b0110_1000, 0b0000_1100, 0b1111_1111]), Some(403));
        assert_eq!(status(&[0x00, 0x01]), None);
    }
}
