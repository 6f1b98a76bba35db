//! The HPACK decoder of libnghttp2 (Debian: libnghttp2-dev), as a second opinion.

use std::ffi::c_int;
use std::ptr::{null_mut, slice_from_raw_parts};

#[repr(C)]
struct Nv {
    name: *mut u8,
    value: *mut u8,
    name_length: usize,
    value_length: usize,
    flags: u8,
}

#[link(name = "nghttp2")]
unsafe extern "C" {
    fn nghttp2_hd_inflate_new(inflater: *mut *mut Opaque) -> c_int;
    fn nghttp2_hd_inflate_del(inflater: *mut Opaque);
    fn nghttp2_hd_inflate_change_table_size(inflater: *mut Opaque, size: usize) -> c_int;
    fn nghttp2_hd_inflate_hd2(
        inflater: *mut Opaque,
        nv: *mut Nv,
        flags: *mut c_int,
        input: *const u8,
        length: usize,
        is_final: c_int,
    ) -> isize;
    fn nghttp2_hd_inflate_end_headers(inflater: *mut Opaque) -> c_int;
}

#[repr(C)]
struct Opaque([u8; 0]);

const FINAL: c_int = 1;
const EMIT: c_int = 2;

/// A decoder.
pub struct Inflater(*mut Opaque);

impl Default for Inflater {
    fn default() -> Self {
        let mut inflater = null_mut();
        // SAFETY: it writes one pointer.
        let result = unsafe { nghttp2_hd_inflate_new(&mut inflater) };
        assert_eq!(result, 0, "there is memory");
        Self(inflater)
    }
}

impl Inflater {
    /// Sets the size of the table that the peer may use.
    pub fn set_limit(&mut self, limit: usize) {
        // SAFETY: the pointer lives as long as `self`.
        let result = unsafe { nghttp2_hd_inflate_change_table_size(self.0, limit) };
        assert_eq!(result, 0);
    }

    /// The fields of a whole block; none if it is broken.
    pub fn decode(&mut self, mut block: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut fields = Vec::new();
        loop {
            let mut flags = 0;
            let mut nv = Nv {
                name: null_mut(),
                value: null_mut(),
                name_length: 0,
                value_length: 0,
                flags: 0,
            };
            // SAFETY: the pointers live as long as the call; what it emits, until the next one.
            let (taken, field) = unsafe {
                let taken = nghttp2_hd_inflate_hd2(
                    self.0,
                    &mut nv,
                    &mut flags,
                    block.as_ptr(),
                    block.len(),
                    1,
                );
                let bytes = |start, length| (*slice_from_raw_parts(start, length)).to_vec();
                let emits = taken >= 0 && flags & EMIT != 0;
                let field = emits.then(|| {
                    (
                        bytes(nv.name.cast_const(), nv.name_length),
                        bytes(nv.value.cast_const(), nv.value_length),
                    )
                });
                (taken, field)
            };
            block = &block[usize::try_from(taken).ok()?..];
            let emitted = field.is_some();
            fields.extend(field);
            if flags & FINAL != 0 {
                // SAFETY: the pointer lives as long as `self`.
                unsafe { nghttp2_hd_inflate_end_headers(self.0) };
                return Some(fields);
            }
            if !emitted && block.is_empty() {
                return None;
            }
        }
    }
}

impl Drop for Inflater {
    fn drop(&mut self) {
        // SAFETY: nobody uses it afterwards.
        unsafe { nghttp2_hd_inflate_del(self.0) };
    }
}
