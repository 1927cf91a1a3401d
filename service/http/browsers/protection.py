"""Headers that tell a browser what it may do with a reply.

The pages get all of them; every reply, whatever it is, the one against guessing at its type.
"""

from collections.abc import Sequence

NOSNIFF = (b"x-content-type-options", b"nosniff")


def page_headers(policy: str = "default-src 'self'", *, ancestors: Sequence[str] = ()) -> dict[str, str]:
    """Return the headers of a page; `policy` says what it may load (Content Security Policy, level 3).

    `ancestors` are the origins whose pages may frame it.
    """
    framed = " ".join(ancestors) or "'none'"
    fixed = f"base-uri 'none'; form-action 'none'; frame-ancestors {framed}; object-src 'none'"
    return {
        "content-security-policy": f"{policy}; {fixed}",
        "cross-origin-opener-policy": "same-origin",
        "referrer-policy": "no-referrer",
    }
