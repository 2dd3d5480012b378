"""Which headers go to a backend: its own (injected credentials, what a client's file sets), and the client's that pass.

    configuration: Header… --own--> fields of every request to the backend, probes included
    client's request + passthroughHeaders --passed_on--> fields of this request

Nothing else of a client's headers reaches a backend: what is a credential here is none there. Which names can be
injected or passed on at all, the configuration has seen to (config/vmcp_headers.py). Pure.
"""

from fastproxy.config import vmcp_schema

Fields = list[tuple[bytes, bytes]]


def own(headers: tuple[vmcp_schema.Header, ...]) -> Fields:
    """The backend's own fields."""
    return [(header.name.encode("ascii"), header.value.encode("latin-1")) for header in headers]


def passed_on(names: tuple[str, ...], fields: Fields, mine: Fields) -> Fields:
    """Of a client's fields those that the owner passes on, all values of each; but none beside one of `mine`."""
    wanted = {name.lower().encode("ascii") for name in names} - {name.lower() for name, _ in mine}
    return [(name, value) for name, value in fields if name.lower() in wanted] if wanted else []


def beside(headers: Fields, mine: Fields) -> Fields:
    """Of a call's fields those that do not say what the backend's own say already: the owner's word holds."""
    if not headers or not mine:
        return headers
    injected = {name.lower() for name, _ in mine}
    return [(name, value) for name, value in headers if name.lower() not in injected]
