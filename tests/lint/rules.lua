--- The house rules as data: who may include whom and what, how long things may be, what stands at
--- the top.

local M = {}

--- What a folder of the engine may include of the others (its own is always allowed).
M.arrows = {
    base = {},
    loop = { "base" },
    pg = { "base" },
    wal = { "base", "pg" },
    conn = { "base", "loop" },
    stream = { "base", "loop", "pg", "wal", "conn" },
    wire = { "base", "loop" },
    patch = { "base", "loop", "pg", "wal" },
    agent = { "base", "loop", "pg", "wal", "conn", "stream", "wire", "patch" },
    probe = { "base", "loop", "pg", "conn" },
    lua = "all",
    cli = "all",
}

--- System headers that only these may include: a folder, or one file of it.
M.headers = {
    { pattern = "^lua[%w]*%.h$", name = "Lua", places = { "lua" } },
    { pattern = "^lauxlib%.h$", name = "Lua", places = { "lua" } },
    { pattern = "^libpq", name = "libpq", places = { "conn", "stream" } },
    { pattern = "^openssl/", name = "OpenSSL", places = { "conn" } },
    { pattern = "^libssh/", name = "libssh", places = { "wire/ssh_link" } },
    { pattern = "^uv%.h$", name = "libuv", places = { "loop" } },
    { pattern = "^jansson%.h$", name = "jansson", places = { "wire" } },
    { pattern = "^xxhash%.h$", name = "xxHash", places = { "base/hash" } },
    { pattern = "^zstd", name = "zstd", places = { "wire/frame" } },
    { pattern = "^lz4", name = "lz4", places = { "wire/frame", "stream/codec" } },
    { pattern = "^zlib", name = "zlib", places = { "stream/codec" } },
}

M.file_lines = 500
M.columns = 100
M.c_function_lines = 80
M.lua_function_lines = 40
M.parameters = 5
--- Functions that a library calls, which therefore chose their parameters.
M.callbacks = { config_no_passphrase = "libssh", pump_said = "libssh", pump_killed = "libssh" }
M.readme_lines = 250

--- Functions that only group others, so that their length says nothing: busted's blocks.
M.groups = { describe = true, context = true, insulate = true, expose = true }

M.top = {
    Makefile = true, engine = true, scripts = true, policies = true, include = true, tests = true,
    ["README.md"] = true, LICENSE = true,
}

--- Variables that outlive a call and may change, with the reason; there is no other one.
M.globals = {
    flush_held = "the limit on descriptors is that of the whole process",
    ssh_gates = "sshd counts the connections of all threads of a process together",
    ssh_sessions = "whose threads the process's end waits for",
}

--- Lua files that only compute: nothing of the engine, of the system, of chance or of the clock.
M.pure = { "scripts/lib/fts.lua", "scripts/lib/guard.lua", "scripts/lib/sight.lua",
    "scripts/lib/pairview.lua" }
M.impure = { "moonrise", "os", "io", "ffi", "debug", "random", "randomseed", "print" }

--- Where waiting for a fixed time is the measurement, the virtual clock, or what is tested.
M.naps = { "^tests/bench/", "^tests/sim/" }

return M
