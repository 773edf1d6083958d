--- Receiving WAL that is there already: against pg_receivewal, in alternation, each into an empty
--- directory of its own, flushed segment by segment as both do.
local mr = require("moonrise")
local measure = require("measure")

local M = {}

local GIGABYTES = 3
local RUNS = 5
local run, timed, BIN = measure.run, measure.timed, measure.BIN
-- Rows that are a megabyte of WAL.
local FILL = [[insert into t select repeat(md5(i::text), 30) from generate_series(1, 980) i]]

local function with_server(fn)
    return measure.with_directory(function(dir)
        local data, port = dir .. "/server", mr.free_port()
        return measure.finally(function()
            run({ BIN .. "/initdb", "-D", data, "-N", "-A", "peer" })
            mr.check(mr.append_file(data .. "/postgresql.conf", ([[
listen_addresses = ''
unix_socket_directories = '%s'
port = %d
max_wal_size = '16GB'
wal_keep_size = '16GB'
autovacuum = off
]]):format(dir, port)))
            run({ BIN .. "/pg_ctl", "-D", data, "-l", dir .. "/server.log", "-w", "start" })
            return fn(dir, port)
        end, function()
            mr.run({ BIN .. "/pg_ctl", "-D", data, "-m", "immediate", "stop" },
                { timeout_ms = measure.PATIENCE_MS })
        end)
    end)
end

-- A slot stands where the WAL begins, so that both begin there.
local function fill(dir, port)
    local conn = mr.check(mr.connect({ host = dir, port = port, dbname = "postgres",
        user = mr.whoami().user }))
    local function sql(text)
        return mr.check(conn:query(text, nil, { timeout_ms = measure.PATIENCE_MS }))
    end
    sql("select pg_switch_wal()")
    sql("checkpoint")
    sql("create table t (x text)")
    local first = sql("select pg_current_wal_insert_lsn() as lsn")[1].lsn
    repeat
        sql(FILL)
        local lsn = sql("select pg_current_wal_insert_lsn() as lsn")[1].lsn
    until lsn - first > GIGABYTES * 2 ^ 30
    local last = sql("select pg_current_wal_flush_lsn() as lsn")[1].lsn
    sql(FILL)
    conn:close()
    return first, mr.lsn_text(last)
end

-- An old, empty partial segment says from where on: neither has an option for that.
local function reset(target, first)
    run({ "rm", "-rf", target })
    mr.check(mr.make_dir(target))
    local segment = math.floor(first / 2 ^ 24)
    mr.check(mr.write_file(("%s/%08X%08X%08X.partial"):format(target, 1, math.floor(segment / 256),
        segment % 256), ""))
    run({ "sync" })
end

local function command(program, target, at)
    for _, word in ipairs({ "-D", target, "-h", at.dir, "-p", tostring(at.port), "-n", "-E",
                            at.last }) do
        table.insert(program, word)
    end
    return program
end

local function race(dir, port)
    local first, last = fill(dir, port)
    local at = { dir = dir, port = port, last = last }
    local result = measure.alternate(RUNS, function() end, function()
        reset(dir .. "/ours", first)
        return timed(command({ mr.executable, "receivewal" }, dir .. "/ours", at))
    end, function()
        reset(dir .. "/theirs", first)
        local seconds = timed(command({ BIN .. "/pg_receivewal" }, dir .. "/theirs", at))
        run({ "sh", "-c", 'cd "$1" && for f in *; do case $f in *.partial) ;; *) ' ..
            'cmp "$f" "$2/$f" || exit 1;; esac; done', "sh", dir .. "/ours", dir .. "/theirs" })
        return seconds
    end)
    result.peer, result.bytes_moved = "pg_receivewal", GIGABYTES * 2 ^ 30
    return result
end

--- Gigabytes of WAL from a server on this host.
---@return table result
function M.receivewal()
    return with_server(race)
end

return M
