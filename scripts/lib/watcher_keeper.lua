--- What runs beside the watcher's events: it takes the lease, reads the catalog through it once a
--- second or as soon as it is asked to (Watcher.looks), and hands each look over as an event.
local cycle = require("lib.cycle")
local mr = require("moonrise")

local M = {}

local SAMPLE_MS = 5000

-- pg_stat_replication as the probes saw it, for the catalog's view.
local function sample(self)
    local rows = {}
    for content, pair in pairs(self.pairs) do
        local known = pair.memory.inst[pair.primary.dbid]
        local peer = known and known.evidence == "ok" and known.seen.peer
        if peer then
            table.insert(rows, {
                gp_segment_id = content, application_name = peer.name, state = peer.state,
                sync_state = peer.sync, sent_lsn = mr.lsn_text(peer.sent_lsn or 0),
                flush_lsn = mr.lsn_text(peer.flush_lsn or 0),
                replay_lsn = mr.lsn_text(peer.replay_lsn or 0),
            })
        end
    end
    -- Who looked at the catalog meanwhile may have lost the session.
    local cat = self.lease.cat
    if cat then
        cat:call("replication_sample_set", #rows > 0 and rows or "[]")
    end
end

local function keep_once(self)
    self.looking = false
    local held, err = self.lease:take()
    if held == false and self.once then
        held, err = cycle.ask_holder(self)
        if held then
            return
        end
    end
    if not held then
        self.events:push({ kind = "lost",
            text = held == false and "somebody else holds the watcher's lease: this one waits"
                or "no catalog: " .. tostring(err) })
        return
    end
    local snapshot
    snapshot, err = self.lease:read()
    if not snapshot then
        self.events:push({ kind = "lost", text = "no catalog: " .. tostring(err) })
        return
    end
    if snapshot.state.config ~= self.config_hash then
        self.config_hash = snapshot.state.config
        self:read_config()
    end
    self.events:push({ kind = "snapshot", snapshot = snapshot, times = self.lease.times })
    if not self.sampled_at or mr.clock() - self.sampled_at >= SAMPLE_MS then
        self.sampled_at = mr.clock()
        sample(self)
    end
end

--- Keeps the lease and the look at the catalog fresh, until the watcher stops.
---@param self Watcher
function M.keep(self)
    while not self.stopping do
        local ok, err = pcall(keep_once, self)
        if not ok then
            self.journal:add("fault", { text = "lease: " .. tostring(err) })
        end
        self.looks:pop(self.look_ms)
    end
end

return M
