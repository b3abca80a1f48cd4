"""Pages of attention keys and values by name, from Python: libkvrail's two levels.

    import kvrail
    with kvrail.Client("unix:/run/kvrail/node.sock", tenant=1) as client:
        space = client.space("chat")
        keys = space.keys(tokens)                  # one a page, the tail included
        buffer = client.buffer(len(keys) * space.page_bytes)
        buffer.view[0:space.page_bytes] = page     # a memoryview of shared memory
        client.put(space, keys, buffer)            # one status a key
        client.get(space, keys, buffer)
        # Or where an engine has them, a tensor a layer: (memory, offset, stride, bytes).
        pool = client.pool(space, [(t, 0, t.strides[0], part) for t in layers], nr_blocks)
        client.get(space, keys, [(pool, block) for block in blocks])

    with kvrail.Client(target, tenant=1, level="pager") as client:
        sequence = client.sequence(client.space("chat"))
        hits = sequence.fetch(keys).nr_hits        # pages that are there, in place
        sequence.append(len(tokens) - hits * space.page_tokens)
        sequence.page(hits)[:] = computed          # a memoryview of the node's memory
        sequence.seal(hits, keys[hits])
        sequence.table().blocks                    # for a kernel
        sequence.end()

    kvrail.Client("embed:/etc/kvrail/node.conf", tenant=1)    # a node in this process

No dependencies: ctypes over libkvrail.so.0 (KVRAIL_LIBRARY names another file). What each
call means, and what ends how, is said in include/kvrail/kvrail.h; the names are the same.

Threads: a Client and its buffers belong to one thread at a time; a Space to any. Errors: a
call that fails raises kvrail.Error with .status; a batch whose keys end differently does
not: look at Result.statuses. Times are seconds.
"""

import ctypes
import os

__all__ = ["Client", "Space", "Buffer", "Pool", "Arena", "Sequence", "Table", "Result", "Error",
           "version"]

KEY_BYTES = 32
BATCH_MAX = 1024

OK, SEALING, EXISTS, AGAIN, MISS, NOT_VERIFIED = 0, 2, 3, -1, -10, -11
INVALID, TOO_LARGE, STALE, DENIED, QUOTA, DEADLINE, CANCELLED = range(-20, -27, -1)
LINK_LOST, VERSION, NOMEM, CONFIG, IO = -40, -41, -60, -61, -62

_OPS = {"exists": 0, "get": 1, "put": 2, "pin": 3, "unpin": 4, "drop": 5}
_SEQ_OPS = {"open": 6, "fetch": 7, "append": 8, "seal": 9, "fork": 10, "truncate": 11,
            "confirm": 12, "end": 13, "changed": 14}
_NAMES = list(_OPS) + list(_SEQ_OPS)
_LEVELS = {"object": 0, "pager": 1}
_PLACES = ("none", "device", "host", "peer")

_u8, _u16, _u32, _u64 = ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64
_p, _size, _int, _text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_char_p


def _struct(name, **fields):
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


_Key = _u8 * KEY_BYTES
_Config = _struct(
    "_Config", struct_size=_size, target=_text, tenant=_u32, ring_bytes=_u32,
    timeout_us=_u64, spin_us=_u64, level=_int)
_Space = _struct(
    "_Space", variant=_u16, nr_groups=_u16, page_tokens=_u32, page_bytes=_u32,
    salt=_Key, id=_Key)
_Buffer = _struct("_Buffer", base=_p, bytes=_size, id=_u32)
_Run = _struct("_Run", base=_p, stride=_size, bytes=_size)
_PoolConfig = _struct(
    "_PoolConfig", struct_size=_size, runs=_p, nr_runs=_u32, nr_blocks=_u32, nr_slots=_u32)
_Pool = _struct("_Pool", id=_u32, nr_slots=_u32)
_At = _struct("_At", buffer=_u32, offset=_u64)
_Batch = _struct(
    "_Batch", struct_size=_size, op=_int, variant=_u16, tag=_u64, timeout_us=_u64, keys=_p,
    nr_keys=_u32, at=_p, n_tokens=_p, loose=_int, first_page=_u32, anchor=_p, prev=_p)
_Result = _struct(
    "_Result", tag=_u64, op=_int, status=_int, nr_keys=_u32,
    statuses=ctypes.POINTER(ctypes.c_int32), reasons=ctypes.POINTER(_u8),
    places=ctypes.POINTER(_u8), seq=_u64, nr_hits=_u32, first_page=_u32, nr_changed=_u32,
    tails=_p, nr_tails=_u32)
_Arena = _struct("_Arena", base=_p, bytes=_size, block_bytes=_u32, nr_blocks=_u32)
_Call = _struct(
    "_Call", struct_size=_size, op=_int, variant=_u16, tag=_u64, timeout_us=_u64, seq=_u64,
    keys=_p, nr_keys=_u32, n_tokens=_p, first_page=_u32, anchor=_p, prev=_p, page=_u32,
    tokens=_u32, version=_u64)
_Table = _struct(
    "_Table", blocks=ctypes.POINTER(ctypes.c_int32), arenas=ctypes.POINTER(_u8),
    gens=ctypes.POINTER(_u64), nr_pages=_u32, n_tokens=_u32, version=_u64)


def _load():
    lib = ctypes.CDLL(os.environ.get("KVRAIL_LIBRARY", "libkvrail.so.0"), use_errno=True)
    signatures = {
        "kvr_version": (_text,), "kvr_status_name": (_text, _int),
        "kvr_status_text": (_text, _int), "kvr_miss_name": (_text, _u8),
        "kvr_open": (_int, _p, _p, _text, _size), "kvr_close": (None, _p),
        "kvr_error": (_text, _p), "kvr_fd": (_int, _p), "kvr_arm": (_int, _p),
        "kvr_space_find": (_int, _p, _text, _p),
        "kvr_keys_tokens": (_int, _p, _p, _size, _p, _size, _p),
        "kvr_key_next": (_int, _p, _p, _p, _size, _p, _size, _p),
        "kvr_key_opaque": (_int, _p, _p, _size, _p),
        "kvr_buffer_create": (_int, _p, _size, _p), "kvr_buffer_destroy": (None, _p, _p),
        "kvr_pool_add": (_int, _p, _p, _p, _p), "kvr_pool_remove": (_int, _p, _p),
        "kvr_submit": (_int, _p, _p), "kvr_next": (_int, _p, _u64, _p),
        "kvr_arenas": (_u32, _p, _p), "kvr_seq_submit": (_int, _p, _p),
        "kvr_seq_table": (_int, _p, _u64, _p),
    }
    for name, (result, *arguments) in signatures.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


_lib = _load()


def version():
    """Of the library: "0.1.0"."""
    return _lib.kvr_version().decode()


def status_name(status):
    """ "miss"; "unknown" for a number that is none of ours."""
    return _lib.kvr_status_name(status).decode()


class Error(Exception):
    """A call that came to nothing: .status is its number, str() one line."""

    def __init__(self, status, line=""):
        super().__init__(line or _lib.kvr_status_text(status).decode())
        self.status = status


def _check(status, line=""):
    if status != OK:
        raise Error(status, line)


def _array(kind, values):
    return (kind * len(values))(*values)


def _pointer(array):
    return ctypes.cast(array, _p) if array is not None else None


def _key(key):
    return _pointer(ctypes.c_char_p(key)) if key else None


def _packed(keys):
    if any(len(k) != KEY_BYTES for k in keys):
        raise Error(INVALID, "keys are 32 bytes each")
    return ctypes.create_string_buffer(b"".join(keys), KEY_BYTES * len(keys) or 1)


class Space:
    """What the numbers mean, and the names of pages in it. Keys are 32 bytes."""

    def __init__(self, raw):
        self._raw = raw
        self.variant, self.nr_groups = raw.variant, raw.nr_groups
        self.page_tokens, self.page_bytes = raw.page_tokens, raw.page_bytes
        self.id = bytes(raw.id)

    def keys(self, tokens):
        """One key a full page of tokens, and one more for a tail."""
        cap = -(-len(tokens) // self.page_tokens)
        keys, nr = (_u8 * (KEY_BYTES * cap))(), _size()
        _check(_lib.kvr_keys_tokens(
            ctypes.byref(self._raw), _array(_u32, tokens), len(tokens), keys, cap,
            ctypes.byref(nr)))
        raw = bytes(keys)
        return [raw[i * KEY_BYTES:(i + 1) * KEY_BYTES] for i in range(nr.value)]

    def next(self, prev, tokens, extra=b""):
        """The key of the page after `prev` (None: the first)."""
        key = _Key()
        _check(_lib.kvr_key_next(
            ctypes.byref(self._raw), prev, _array(_u32, tokens), len(tokens), extra,
            len(extra), key))
        return bytes(key)

    def opaque(self, name):
        """The key of an engine's own name of 1 to 256 bytes."""
        key = _Key()
        _check(_lib.kvr_key_opaque(ctypes.byref(self._raw), name, len(name), key))
        return bytes(key)


class Buffer:
    """Memory that the node reads and writes: .view is a memoryview of its bytes, usable
    until close(). From a batch's submit to its result the bytes are the node's."""

    def __init__(self, client, raw):
        self._client, self._raw, self.id = client, raw, raw.id
        memory = (ctypes.c_char * raw.bytes).from_address(raw.base)
        self.view = memoryview(memory).cast("B")

    def close(self):
        if self._raw is not None:
            self.view.release()
            if self._client._handle is not None:
                _lib.kvr_buffer_destroy(self._client._handle, ctypes.byref(self._raw))
            self._raw = None


class Pool:
    """Blocks of memory of the caller's own, kept until close(); see Client.pool()."""

    def __init__(self, client, raw, memories):
        self._client, self._raw, self._memories, self.id = client, raw, memories, raw.id

    def close(self):
        """Error AGAIN while batches of it are in flight."""
        if self._raw is not None and self._client._handle is not None:
            _check(_lib.kvr_pool_remove(self._client._handle, ctypes.byref(self._raw)),
                   self._client._error())
        self._raw = self._memories = None


class Result:
    """Of one batch: .status of the whole, .statuses, .reasons (of misses, by name) and
    .places ("host", "peer", …), one a key."""

    def __init__(self, raw, error):
        n = raw.nr_keys
        self.tag, self.status, self.error = raw.tag, raw.status, error
        self.op, self.seq, self.nr_hits = _NAMES[raw.op], raw.seq, raw.nr_hits
        self.statuses = raw.statuses[:n]
        self.places = [_PLACES[p] if p < len(_PLACES) else "none" for p in raw.places[:n]]
        self.reasons = [
            _lib.kvr_miss_name(r).decode() if s == MISS else ""
            for s, r in zip(self.statuses, raw.reasons[:n])]

    @property
    def ok(self):
        return self.status == OK and all(s in (OK, EXISTS) for s in self.statuses)

    def hits(self):
        """How many keys from the first on were met: the run that needs no computing."""
        n = 0
        while n < len(self.statuses) and self.statuses[n] in (OK, EXISTS):
            n += 1
        return n


class Arena:
    """Memory of the node that pages lie in: .view of all of it, until the client closes."""

    def __init__(self, raw):
        self.block_bytes, self.nr_blocks = raw.block_bytes, raw.nr_blocks
        self.view = memoryview((ctypes.c_char * raw.bytes).from_address(raw.base)).cast("B")

    def block(self, number):
        return self.view[number * self.block_bytes:(number + 1) * self.block_bytes]


class Table:
    """Of a sequence at one moment: page i lies in .blocks[i] of arena .arenas[i]."""

    def __init__(self, raw):
        self.blocks, self.arenas = raw.blocks[:raw.nr_pages], raw.arenas[:raw.nr_pages]
        self.gens = raw.gens[:raw.nr_pages]
        self.n_tokens, self.version = raw.n_tokens, raw.version


class Sequence:
    """One request's page table. Each call waits for its result; a table that changes by
    itself meanwhile is what table() says next. end() it: a client that is closed with
    sequences open leaves their blocks unusable until its process has died."""

    def __init__(self, client, handle):
        self._client, self.handle = client, handle

    def _do(self, op, accept=(OK,), **words):
        result = self._client._call(op, seq=self.handle, **words)
        if result.status not in accept:
            raise Error(result.status, result.error)
        return result

    def table(self):
        raw = _Table()
        _check(_lib.kvr_seq_table(self._client._handle, self.handle, ctypes.byref(raw)),
               self._client._error())
        return Table(raw)

    def page(self, number):
        """A memoryview of the page where it lies now. Write what append() gave, before
        seal(); release it before the client is closed."""
        table = self.table()
        return self._client.arenas[table.arenas[number]].block(table.blocks[number])

    def fetch(self, keys, first_page=None, anchor=None, n_tokens=None, timeout=1.0):
        """Appends the pages that can be had from the first key on: Result.nr_hits."""
        if first_page is None:
            first_page = len(self.table().blocks)
        return self._do("fetch", keys=keys, first_page=first_page, anchor=anchor,
                        n_tokens=n_tokens, timeout=timeout)

    def append(self, tokens, timeout=1.0):
        self._do("append", tokens=tokens, timeout=timeout)

    def seal(self, page, key, anchor=None, prev=None):
        """SEALING, or EXISTS: the table has the equal page that was there."""
        return self._do("seal", (SEALING, EXISTS), page=page, keys=[key], anchor=anchor,
                        prev=prev).status

    def fork(self):
        return Sequence(self._client, self._do("fork").seq)

    def truncate(self, tokens):
        self._do("truncate", tokens=tokens)

    def confirm(self, version=None):
        """Queued work uses this version, or what table() says now."""
        self._do("confirm", version=self.table().version if version is None else version)

    def end(self):
        self._do("end")


class Client:
    """A connection to the node of this machine ("unix:PATH"; the process's uid must cover
    `tenant`), or to one in this process ("embed:FILE"): the first starts it, the last
    close() stops it."""

    def __init__(self, target, tenant, ring_bytes=0, timeout=5.0, spin=0.00005,
                 level="object"):
        error = ctypes.create_string_buffer(512)
        handle = _p()
        config = _Config(
            ctypes.sizeof(_Config), target.encode(), tenant, ring_bytes,
            int(timeout * 1e6), max(1, int(spin * 1e6)), _LEVELS[level])
        self._handle, self._buffers, self._pools, self.arenas = None, [], [], []
        _check(_lib.kvr_open(
            ctypes.byref(config), ctypes.byref(handle), error, len(error)),
            error.value.decode())
        self._handle, self._tag = handle, 0
        arenas = ctypes.POINTER(_Arena)()
        nr = _lib.kvr_arenas(handle, ctypes.byref(arenas))
        self.arenas = [Arena(arenas[i]) for i in range(nr)]

    def close(self):
        """Gives everything back: pins, buffers, batches in flight."""
        if self._handle is not None:
            for buffer in self._buffers:
                buffer.close()
            for arena in self.arenas:
                arena.view.release()
            handle, self._handle = self._handle, None
            _lib.kvr_close(handle)
            for pool in self._pools:
                pool.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _error(self):
        return _lib.kvr_error(self._handle).decode()

    def fileno(self):
        """For select(): readable with a result or the node's end. Call arm() before."""
        return _lib.kvr_fd(self._handle)

    def arm(self):
        """True: nothing is there yet, and fileno() will tell. False: call next()."""
        return bool(_lib.kvr_arm(self._handle))

    def space(self, name):
        raw = _Space()
        _check(_lib.kvr_space_find(self._handle, name.encode(), ctypes.byref(raw)),
               self._error())
        return Space(raw)

    def buffer(self, size):
        raw = _Buffer()
        _check(_lib.kvr_buffer_create(self._handle, size, ctypes.byref(raw)), self._error())
        buffer = Buffer(self, raw)
        self._buffers.append(buffer)
        return buffer

    def pool(self, space, runs, nr_blocks, nr_slots=0):
        """Blocks in memory of the caller's own: runs are (memory, offset, stride, bytes),
        memory anything with a writable buffer. Block b is `bytes` at offset + b * stride of
        each, one after the other. Batches name (pool, block) in `at`."""
        raw, memories, nr = _Pool(), [], len(runs)
        array = (_Run * nr)()
        for i, (memory, offset, stride, size) in enumerate(runs):
            whole = memoryview(memory).cast("B")
            if nr_blocks < 1 or offset < 0 or offset + (nr_blocks - 1) * stride + size > len(whole):
                raise Error(INVALID, f"run {i}: {nr_blocks} blocks are more than its memory")
            memories.append((ctypes.c_char * len(whole)).from_buffer(whole))
            array[i] = _Run(ctypes.addressof(memories[-1]) + offset, stride, size)
        config = _PoolConfig(
            ctypes.sizeof(_PoolConfig), ctypes.addressof(array), nr, nr_blocks, nr_slots)
        _check(_lib.kvr_pool_add(
            self._handle, ctypes.byref(space._raw), ctypes.byref(config), ctypes.byref(raw)),
            self._error())
        pool = Pool(self, raw, memories)
        self._pools.append(pool)
        return pool

    def submit(self, op, space, keys, at=None, n_tokens=None, group=0, timeout=1.0,
               loose=False, first_page=0, anchor=None, prev=None):
        """Begins a batch and returns its tag; next() gives its result. at: (buffer, offset)
        or (pool, block) a key for "get" and "put"; a Buffer alone means page i at
        i * page_bytes."""
        if isinstance(at, Buffer):
            at = [(at, i * space.page_bytes) for i in range(len(keys))]
        self._tag += 1
        packed = _packed(keys)
        places = _array(_At, [_At(b.id, offset) for b, offset in at]) if at else None
        lengths = _array(_u32, n_tokens) if n_tokens else None
        if any(a is not None and len(a) != len(keys) for a in (places, lengths)):
            raise Error(INVALID, "at and n_tokens are one a key")
        batch = _Batch(
            ctypes.sizeof(_Batch), _OPS[op], space.variant + group, self._tag,
            int(timeout * 1e6) if _OPS[op] <= 2 else 0, _pointer(packed), len(keys),
            _pointer(places), _pointer(lengths), int(loose), first_page, _key(anchor),
            _key(prev))
        _check(_lib.kvr_submit(self._handle, ctypes.byref(batch)), self._error())
        return self._tag

    def next(self, timeout=1.0):
        """The next result, or None when there is none within timeout. Error LINK_LOST when
        the node is gone and every batch has had its result."""
        raw = _Result()
        status = _lib.kvr_next(self._handle, int(timeout * 1e6), ctypes.byref(raw))
        if status == AGAIN:
            return None
        _check(status, self._error())
        return Result(raw, self._error() if raw.status != OK else "")

    def seq_submit(self, op, seq=0, variant=0, keys=(), first_page=0, anchor=None,
                   prev=None, n_tokens=None, page=0, tokens=0, version=0, timeout=1.0):
        """Begins one operation of a sequence ("open", "fetch", …), as submit()."""
        self._tag += 1
        packed = _packed(keys)
        lengths = _array(_u32, n_tokens) if n_tokens else None
        if lengths is not None and len(lengths) != len(keys):
            raise Error(INVALID, "n_tokens are one a key")
        call = _Call(
            ctypes.sizeof(_Call), _SEQ_OPS[op], variant, self._tag, int(timeout * 1e6), seq,
            _pointer(packed), len(keys), _pointer(lengths), first_page, _key(anchor),
            _key(prev), page, tokens, version)
        _check(_lib.kvr_seq_submit(self._handle, ctypes.byref(call)), self._error())
        return self._tag

    def sequence(self, space, group=0):
        result = self._call("open", variant=space.variant + group)
        _check(result.status, result.error)
        return Sequence(self, result.seq)

    def _call(self, op, timeout=1.0, **words):
        return self._await(self.seq_submit(op, timeout=timeout, **words), timeout)

    def _do(self, op, space, keys, timeout=1.0, **words):
        return self._await(self.submit(op, space, keys, timeout=timeout, **words), timeout)

    def _await(self, tag, timeout):
        result = self.next(timeout + 1.0)
        while result is not None and result.tag != tag:
            result = self.next(timeout + 1.0)
        if result is None:
            raise Error(DEADLINE)
        return result

    # One batch and its result. Results of batches begun by submit() that come meanwhile
    # are lost: a client uses these or submit(), not both at once.
    def exists(self, space, keys, **words):
        return self._do("exists", space, keys, **words)

    def get(self, space, keys, at, **words):
        return self._do("get", space, keys, at=at, **words)

    def put(self, space, keys, at, **words):
        return self._do("put", space, keys, at=at, **words)

    def pin(self, space, keys, **words):
        return self._do("pin", space, keys, **words)

    def unpin(self, space, keys, **words):
        return self._do("unpin", space, keys, **words)

    def drop(self, space, keys, **words):
        return self._do("drop", space, keys, **words)
