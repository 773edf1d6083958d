--- What `moonrise state` gathers of a healthy cluster and of one that has failed over, as
--- Greenplum's samples have them: for specs of its views.
local M = {}

local VERSION = "PostgreSQL 15.20 (Debian 15.20-0+deb12u1) on x86_64-pc-linux-gnu, compiled by gcc"

local function row(dbid, content, role, port, datadir)
    return { dbid = dbid, content = content, role = role, preferred_role = role, mode = "s",
             status = "u", port = port, hostname = "cdw", address = "cdw", datadir = datadir }
end

local function seen(pid, sql)
    sql.version, sql.server_version = VERSION, "15.20 (Debian 15.20-0+deb12u1)"
    sql.waiting, sql.checkpointer, sql.sync_commit = 0, "CheckpointerMain", "on"
    sql.sync_names = sql.sync_names or ""
    sql.peers, sql.weaker = sql.peers or {}, {}
    return {
        sql = sql,
        word = { kind = "datadir", stopped = false,
                 postmaster = { pid = pid, ours = true, alive = true, socket_lock = true } },
    }
end

local function primary(pid, mirror, lsns)
    return seen(pid, { in_recovery = false, write_lsn = lsns[1], sync_names = mirror.name .. "_7",
        peers = { { name = mirror.name .. "_7", slot = "mr_slot_" .. mirror.dbid, sync = "sync",
                    state = "streaming", sent_lsn = lsns[2], flush_lsn = lsns[3],
                    replay_lsn = lsns[4] } } })
end

local function mirror_of(pid)
    return seen(pid, { in_recovery = true })
end

--- A healthy cluster of three mirrored segments and a standby.
---@return table facts
function M.healthy()
    local at = { 0xC000D70, 0xC000D70, 0xC000D70, 0xC000CE8 }
    local name = require("lib.instance").stream_name({ content = -1, dbid = 8 })
    return {
        source = "coordinator", cluster = { name = "sales", epoch = 7, state = "running" },
        leases = {}, left = {},
        instances = {
            row(1, -1, "p", 6000, "/data/coordinator/gpseg-1"),
            row(8, -1, "m", 6001, "/data/standby/gpseg-1"),
            row(2, 0, "p", 6002, "/data/primary/gpseg0"),
            row(5, 0, "m", 6005, "/data/mirror/gpseg0"),
            row(3, 1, "p", 6003, "/data/primary/gpseg1"),
            row(6, 1, "m", 6006, "/data/mirror/gpseg1"),
            row(4, 2, "p", 6004, "/data/primary/gpseg2"),
            row(7, 2, "m", 6007, "/data/mirror/gpseg2"),
        },
        seen = {
            primary(1586, { name = name, dbid = 8 },
                { 0xC000EB0, 0xC000EB0, 0xC000EB0, 0xC000D88 }),
            primary(1551, { name = "mr_0_5", dbid = 5 }, at),
            primary(1555, { name = "mr_1_6", dbid = 6 }, at),
            primary(1552, { name = "mr_2_7", dbid = 7 }, at),
            mirror_of(2342), mirror_of(2340), mirror_of(2341), mirror_of(2809),
        },
    }
end

--- The same after the primary of content 0 was killed and its mirror promoted.
---@return table facts
function M.failed_over()
    local facts = M.healthy()
    local old, new = facts.instances[3], facts.instances[4]
    facts.instances[3], facts.instances[4] = new, old
    old.role, old.mode, old.status = "m", "n", "d"
    new.role, new.mode = "p", "n"
    facts.seen[1].word.postmaster.pid = 5136
    facts.seen[2].sql, facts.seen[2].sql_error = nil, { code = "connect", message = "refused" }
    facts.seen[2].word.postmaster.alive, facts.seen[2].word.stopped = false, true
    facts.seen[5] = seen(5080, { in_recovery = false, write_lsn = 0x34AF9F98 })
    facts.seen[3] = primary(5067, { name = "mr_1_6", dbid = 6 },
        { 0x34AC1E40, 0x34AC1E40, 0x34AC1E40, 0x34AC1DD8 })
    facts.seen[4] = primary(5075, { name = "mr_2_7", dbid = 7 },
        { 0x34B8ECE0, 0x34B8ECE0, 0x34B8ECE0, 0x34B8ECE0 })
    facts.seen[6], facts.seen[7] = mirror_of(5079), mirror_of(5081)
    return facts
end

return M
