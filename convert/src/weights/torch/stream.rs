//! The bytes of a pickle, read front to back.

use super::pickle::PickleError;

/// A cursor that never passes the end.
pub(super) struct Stream<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Stream<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Stream { bytes, position: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.position == self.bytes.len()
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], PickleError> {
        let rest = &self.bytes[self.position..];
        let taken = rest.get(..count).ok_or(PickleError::Truncated { at: self.position })?;
        self.position += count;
        Ok(taken)
    }

    pub(super) fn take_u64(&mut self, count: u64) -> Result<&'a [u8], PickleError> {
        let count = usize::try_from(count);
        self.take(count.map_err(|_| PickleError::Truncated { at: self.position })?)
    }

    /// A line of ASCII without its end.
    pub(super) fn line(&mut self) -> Result<&'a str, PickleError> {
        let start = self.position;
        let rest = &self.bytes[start..];
        let end = rest.iter().position(|&byte| byte == b'\n');
        let line = self.take(end.ok_or(PickleError::Truncated { at: start })?)?;
        self.position += 1;
        let problem = "name that is not UTF-8";
        str::from_utf8(line).map_err(|_| PickleError::Malformed { problem, at: start })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, PickleError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, PickleError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, PickleError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, PickleError> {
        Ok(u64::from_le_bytes(self.array()?))
    }
}
