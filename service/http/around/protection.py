"""Headers that tell a browser what it may do with a reply.

The pages get all of them; every reply, whatever it is, the one against guessing at its type.
"""

NOSNIFF = (b"x-content-type-options", b"nosniff")


def page_headers(policy: str = "default-src 'self'") -> dict[str, str]:
    """Return the headers of a page; `policy` says what it may load (Content Security Policy, level 3)."""
    fixed = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    return {
        "content-security-policy": f"{policy}; {fixed}",
        "cross-origin-opener-policy": "same-origin",
        "referrer-policy": "no-referrer",
    }
