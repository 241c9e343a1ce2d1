//! JSON pointers through the members of objects.

/// How long a pointer may be.
const BYTES_MAX: usize = 256;

/// The members that a pointer such as `/order/id` goes through, in which `~1` stands for a slash and `~0` for a tilde. An error says what is wrong.
pub(crate) fn members(pointer: &str) -> Result<Vec<String>, &'static str> {
    let Some(inner) = pointer.strip_prefix('/') else {
        return Err("no JSON pointer; one begins with a slash, such as /order");
    };
    if pointer.len() > BYTES_MAX {
        return Err("too long; 256 bytes are possible");
    }
    let is_escape = |rest: &str| rest.starts_with(['0', '1']);
    if !pointer.split('~').skip(1).all(is_escape) {
        return Err("no JSON pointer; a tilde is written ~0");
    }
    let unescape = |member: &str| member.replace("~1", "/").replace("~0", "~");
    Ok(inner.split('/').map(unescape).collect())
}
