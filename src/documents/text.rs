//! A text that is read once, from its beginning: it is never in memory as a whole.

use std::io::{self, Read};

/// How much is read at a time, in bytes.
const BLOCK: usize = 64 * 1024;

/// A text, and how far it was read.
pub(super) struct Text<'a> {
    source: &'a mut dyn Read,
    watch: &'a mut dyn FnMut(usize),
    /// What was read of the source, and from where on nobody has taken it.
    buffer: Vec<u8>,
    at: usize,
    /// The beginning of a character that goes on in the next block.
    cut: Vec<u8>,
    read: usize,
    lines: usize,
    is_over: bool,
    /// Whether it is meant as JSON.
    is_json: bool,
    /// Why it could not be read further. Parsers have words of their own for it.
    trouble: Option<io::Error>,
}

impl<'a> Text<'a> {
    /// `watch` is told how many bytes are read.
    ///
    /// # Errors
    ///
    /// If its beginning cannot be read.
    pub(super) fn new(
        source: &'a mut dyn Read,
        watch: &'a mut dyn FnMut(usize),
    ) -> io::Result<Self> {
        let (buffer, at, cut, read, lines) = (Vec::new(), 0, Vec::new(), 0, 0);
        let (is_over, is_json, trouble) = (false, false, None);
        let mut text =
            Self { source, watch, buffer, at, cut, read, lines, is_over, is_json, trouble };
        match text.begin() {
            Ok(()) => Ok(text),
            Err(error) => Err(text.trouble.unwrap_or(error)),
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        // Editors on Windows write one.
        self.ahead(3)?;
        if self.rest().starts_with(b"\xef\xbb\xbf") {
            self.at += 3;
        }
        // Much of YAML is no JSON, but much of broken JSON is YAML.
        self.is_json = matches!(*self.ahead(2)?, [b'{', b'"' | b'}']);
        Ok(())
    }

    /// What was read and not taken yet.
    fn rest(&self) -> &[u8] {
        self.buffer.get(self.at..).unwrap_or_default()
    }

    /// The first of the bytes that follow which is no white space. Nothing is taken.
    pub(super) fn next(&mut self) -> io::Result<Option<u8>> {
        Ok(self.ahead(1)?.first().copied())
    }

    /// As many of the bytes that follow as are asked for, but white space.
    fn ahead(&mut self, count: usize) -> io::Result<Vec<u8>> {
        loop {
            let inside = self.rest().iter().filter(|byte| !byte.is_ascii_whitespace());
            let found: Vec<_> = inside.take(count).copied().collect();
            if found.len() == count || self.is_over {
                return Ok(found);
            }
            self.more()?;
        }
    }

    /// Whether it is meant as JSON.
    pub(super) fn is_json(&self) -> bool {
        self.is_json
    }

    /// How many lines were taken.
    pub(super) fn lines(&self) -> usize {
        self.lines - newlines(self.rest())
    }

    /// Why it could not be read further, if so.
    pub(super) fn trouble(&mut self) -> Option<io::Error> {
        self.trouble.take()
    }

    /// Reads another block.
    fn more(&mut self) -> io::Result<()> {
        self.block().map_err(|error| {
            let kind = error.kind();
            self.trouble = Some(error);
            kind.into()
        })
    }

    fn block(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.at.min(self.buffer.len()));
        self.at = 0;
        let before = self.buffer.len();
        self.buffer.resize(before + BLOCK, 0);
        let read = loop {
            match self.source.read(self.buffer.get_mut(before..).unwrap_or_default()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.buffer.truncate(before + read.as_ref().map_or(0, |read| *read));
        let read = read?;
        self.is_over = read == 0;
        self.read += read;
        (self.watch)(self.read);
        self.lines += newlines(self.buffer.get(before..).unwrap_or_default());
        // A character may be cut by the end of a block, but not by that of the text.
        self.cut.extend_from_slice(self.buffer.get(before..).unwrap_or_default());
        match std::str::from_utf8(&self.cut) {
            Ok(_) => self.cut.clear(),
            Err(error) if error.error_len().is_none() && !self.is_over => {
                self.cut.drain(..error.valid_up_to());
            }
            Err(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
        Ok(())
    }
}

impl Read for Text<'_> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        if self.rest().is_empty() && !self.is_over {
            self.more()?;
        }
        let mut rest = self.rest();
        let count = rest.read(target)?;
        self.at += count;
        Ok(count)
    }
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.split(|byte| *byte == b'\n').count() - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source that gives so many bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(target.len());
            self.0.read(&mut target[..count])
        }
    }

    #[test]
    fn however_little_comes_at_a_time_it_is_the_same_text() {
        let whole = "\u{feff} {\n\n \"ä\": \"€\"}\n---\nb";
        for size in [1, 2, 3, 100] {
            let mut source = Slow(whole.as_bytes(), size);
            let (mut seen, mut said) = (0, String::new());
            let mut watch = |at| seen = at;
            let mut text = Text::new(&mut source, &mut watch).unwrap();
            assert!(text.is_json());
            assert_eq!((text.next().unwrap(), text.lines()), (Some(b'{'), 0));
            let mut first = [0; 5];
            text.read_exact(&mut first).unwrap();
            assert_eq!((text.next().unwrap(), text.lines()), (Some(b'"'), 2));
            text.read_to_string(&mut said).unwrap();
            assert_eq!(text.next().unwrap(), None);
            assert_eq!(said, whole.split_once("{\n\n ").unwrap().1);
            assert_eq!(seen, whole.len());
        }
    }

    #[test]
    fn what_is_no_utf8_is_trouble_wherever_it_is() {
        for bytes in [&b"a\xff"[..], b"a: \xe2\x82", b"\xff\xfea\0"] {
            for size in [1, 100] {
                let mut source = Slow(bytes, size);
                let mut watch = |_| {};
                let read = Text::new(&mut source, &mut watch).and_then(|mut text| {
                    text.read_to_end(&mut Vec::new()).map_err(|_| text.trouble().unwrap())
                });
                assert_eq!(read.unwrap_err().kind(), io::ErrorKind::InvalidData, "{bytes:?}");
            }
        }
    }
}
