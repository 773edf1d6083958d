--- `state -s`: everything about every instance. Pure.
local judge = require("lib.state.judge")
local sheet = require("lib.state.sheet")
local survivors = require("lib.survivors")

local M = {}

local RULE = 52

local function version_of(facts, inst)
    local sql = (facts.seen[inst.dbid] or {}).sql
    return sql and sql.server_version:match("^%S+") or "Unknown"
end

local function coordinator(facts)
    local pair = judge.split(facts)
    local inst = pair.primary
    local pid, unknown = judge.pid_text(facts.seen[inst.dbid])
    local out = sheet.new()
    out:rule(RULE)
    out:text("-Coordinator Configuration & Status")
    out:rule(RULE)
    out:pair("Coordinator host", inst.hostname)
    out:pair("Coordinator postgres process ID", pid, unknown)
    out:pair("Coordinator data directory", inst.datadir)
    out:pair("Coordinator port", inst.port)
    local status = facts.source == "coordinator" and judge.status(facts, inst) or "Down"
    out:pair("Coordinator current role", status == "Up" and "dispatch" or status, status ~= "Up")
    local version = version_of(facts, inst)
    out:pair("Postgres version", version, version == "Unknown")
    if pair.mirror then
        local state, good = judge.standby_state(facts, pair.mirror)
        out:pair("Coordinator standby", pair.mirror.hostname)
        out:pair("Standby coordinator state", state, not good)
    else
        out:pair("Coordinator standby", "No coordinator standby configured")
    end
    return out:lines()
end

-- "   Segment Info" stands three blanks inside the sheet, its items three more.
local function item(out, label, value, warn)
    out:pair("   " .. label, value, warn)
end

-- What is not known is marked; so is what is zero only because nothing is known.
local function known(out, label, value)
    item(out, label, value or "Unknown", value == nil)
end

local function place(out, inst)
    out:row({ "Segment Info" })
    item(out, "Hostname", inst.hostname)
    item(out, "Address", inst.address)
    item(out, "Datadir", inst.datadir)
    item(out, "Port", inst.port)
end

local function mirroring(out, facts, pair, inst)
    out:row({ "Mirroring Info" })
    item(out, "Current role", judge.ROLES[inst.role])
    item(out, "Preferred role", judge.ROLES[inst.preferred_role])
    local state = judge.data_state(facts, pair)
    local peer = judge.peer(facts, pair)
    if inst.role == "m" and peer and peer.state then
        state = peer.state:sub(1, 1):upper() .. peer.state:sub(2)
    elseif inst.role == "m" then
        state = "Not In Sync"
    end
    if pair.mirror then
        item(out, "Mirror status", state)
    end
end

local function primary_positions(out, facts, pair)
    local sql = (facts.seen[pair.primary.dbid] or {}).sql
    out:row({ "Replication Info" })
    known(out, "Current write location", sql and sql.write_lsn and judge.lsn(sql.write_lsn))
    if pair.mirror then
        known(out, "Bytes remaining to send to mirror", judge.behind(facts, pair))
    end
end

local function difference(a, b)
    return a and b and math.max(0, a - b) or nil
end

local function mirror_positions(out, facts, pair)
    local peer = judge.peer(facts, pair) or {}
    out:row({ "Replication Info" })
    known(out, "WAL Sent Location", peer.sent_lsn and judge.lsn(peer.sent_lsn))
    known(out, "WAL Flush Location", peer.flush_lsn and judge.lsn(peer.flush_lsn))
    known(out, "WAL Replay Location", peer.replay_lsn and judge.lsn(peer.replay_lsn))
    known(out, "Bytes received but remain to flush", difference(peer.sent_lsn, peer.flush_lsn))
    known(out, "Bytes received but remain to replay", difference(peer.flush_lsn, peer.replay_lsn))
end

local function status(out, facts, inst)
    local pid, unknown = judge.pid_text(facts.seen[inst.dbid])
    local text = judge.status(facts, inst)
    out:row({ "Status" })
    item(out, "PID", pid, unknown)
    item(out, "Configuration reports status as", inst.status == "u" and "Up" or "Down",
        inst.status ~= "u")
    item(out, inst.role == "p" and "Database status" or "Segment status", text, text ~= "Up")
end

-- Of both, for whoever has to choose.
local function left(out, facts, pair, inst)
    if not judge.is_double_fault(facts, pair) then
        return
    end
    local one = judge.survivors(facts, pair)[inst.role == "p" and 1 or 2]
    out:row({ "Double Fault" })
    if one.unreadable then
        item(out, "Not readable", one.unreadable, true)
        return
    end
    known(out, "Timeline", one.timeline)
    item(out, "Last position", survivors.position(one), one.lsn == nil)
    item(out, "In sync when last seen", one.in_sync and "Yes" or "No", not one.in_sync)
    item(out, "Promoting it would lose", survivors.loss(one), survivors.loses(one))
end

local function segment(out, facts, pair, inst)
    out:rule(RULE)
    place(out, inst)
    mirroring(out, facts, pair, inst)
    if inst.role == "p" then
        primary_positions(out, facts, pair)
    else
        mirror_positions(out, facts, pair)
    end
    status(out, facts, inst)
    left(out, facts, pair, inst)
end

local WARNING = {
    "*****************************************************",
    "Warnings have been generated during status processing",
    "Check log file or review screen output",
    "*****************************************************",
}

--- The view's lines.
---@param facts StateFacts
---@return StateLine[]
function M.lines(facts)
    local lines = coordinator(facts)
    local _, segments = judge.split(facts)
    local out = sheet.new()
    out:rule(RULE)
    out:text("Segment Instance Status Report")
    for _, pair in ipairs(segments) do
        segment(out, facts, pair, pair.primary)
        if pair.mirror then
            segment(out, facts, pair, pair.mirror)
        end
    end
    sheet.append(lines, out:lines())
    local warned = false
    for _, line in ipairs(lines) do
        warned = warned or line.level == "warn"
    end
    for _, text in ipairs(warned and WARNING or {}) do
        table.insert(lines, sheet.warn(text))
    end
    return lines
end

return M
