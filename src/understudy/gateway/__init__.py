"""The data plane: raw ASGI around `guard.py`. Everything with a socket, a file or a clock is in this room.

service.py   a manifest compiled: routes, grants, allowances      app.py      one request, from bytes to bytes
upstream.py  the model server                                     observe.py  the same, changing nothing
identity.py  who asks                keys.py     API keys
ledger.py    allowances, one machine leases.py   allowances, several machines
serve.py     workers and signals     admin.py    the operators' own address
life.py      as a middleware         upkeep.py   retention
watcher.py   the record, watched     together.py by several machines
"""
