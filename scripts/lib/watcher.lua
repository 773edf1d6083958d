--- The watcher: keeps the lease, probes every instance, runs the state machine, has its actions
--- done.
---
--- One task handles events in their order: probes' outcomes, hosts' words, results, new looks at
--- the catalog. It never waits for anything but the next event; whatever takes time is a task of
--- its own (lib/watcher_acts.lua) that brings its result back as an event. Nothing that fails in
--- there ends the watcher: it is told, and tried again as the state machine says.
local acts = require("lib.watcher_acts")
local agents = require("lib.agents")
local cluster = require("lib.cluster")
local config = require("lib.config")
local cycle = require("lib.cycle")
local fts = require("lib.fts")
local half_started = require("lib.half_started")
local hold = require("lib.hold")
local home = require("lib.home")
local hooks = require("lib.hooks")
local hosts = require("lib.watcher_hosts")
local instance = require("lib.instance")
local journal = require("lib.journal")
local keeper = require("lib.watcher_keeper")
local lease = require("lib.lease")
local merged = require("lib.merged")
local mr = require("moonrise")
local policy = require("lib.policy")
local sight = require("lib.sight")
local term = require("lib.term")
local watcher_places = require("lib.watcher_places")

local M = {}

M.INTERVAL_MS = 1000
M.TIMEOUT_MS = 2000
local FRESH_MS = 3000
local IDLE_MS = 1000
local LACKS_EVERY_MS = 60000
local CLOSE_MS = 2000

---@class Watcher
---@field env Env
---@field ctx {env: Env, agents: table, cat: table?, policies: Policies, settings: table}
---@field pairs table<integer, table> by content: {content, memory, primary, mirror, pair, lease,
--- pause}
local Watcher = {}
Watcher.__index = Watcher

local quiet_kinds = { state = true, word = true, overtaken = true }

local function say(kind, entry)
    local about = entry.content and ("content %d "):format(entry.content) or ""
    local line = ("%s%s: %s"):format(about, kind, entry.text)
    if quiet_kinds[kind] then
        term.info("%s", line)
    else
        term.warn("%s", line)
    end
end

-- The defaults, what cluster.lua says, and what the command line says.
local function options_of(given, watch)
    local settings = merged(sight.settings, watch, given.settings)
    settings.interval_ms = given.interval_ms or settings.interval_ms or M.INTERVAL_MS
    settings.timeout_ms = given.timeout_ms or settings.timeout_ms or M.TIMEOUT_MS
    return settings
end

--- A watcher that does not run yet.
---@param env Env
---@param options table {interval_ms, timeout_ms, settings, policy_files}, all optional
---@return Watcher
function M.new(env, options)
    local self = setmetatable({
        env = env, options = options, events = mr.queue(), pairs = {}, by_dbid = {}, targets = {},
        holder = hold.holder(), stopping = false, looks = mr.queue(), look_ms = IDLE_MS,
    }, Watcher)
    self.lease = lease.new(env, self.holder)
    self.settings = options_of(options, {})
    local dir = home.state_dir(env.name)
    mr.make_dir(dir)
    self.journal = journal.open({
        file = dir .. "/journal.jsonl",
        say = function(kind, entry)
            say(kind, entry)
            self:tell_hooks(kind, entry)
        end,
        catalog = function()
            return self.lease.cat
        end,
    })
    self.hooks = hooks.new(env, function(kind, entry)
        self.journal:add(kind, entry)
    end)
    self.ctx = { env = env, agents = agents.new(env), settings = self.settings }
    self.hosts = hosts.new(self)
    self:open_policies()
    return self
end

function Watcher:open_policies(configured)
    local files = configured or {}
    for kind, file in pairs(self.options.policy_files or {}) do
        files[kind] = file
    end
    if self.ctx.policies then
        self.ctx.policies:close()
    end
    self.ctx.policies = policy.open({ files = files, on_fault = function(kind, file, err)
        self.journal:add("policy_fault", {
            text = ("the %s policy %s failed, the packaged one decides: %s"):format(kind, file,
                tostring(err)),
            data = { policy = kind, file = file } })
    end })
end

--- Has the hooks run for an event. Of several watchers the one that leads does it; without a
--- catalog nobody can lead, and each that has known the cluster does.
---@param kind string
---@param entry table
function Watcher:tell_hooks(kind, entry)
    if self:leads() or not self.lease.cat then
        self.hooks:event(kind, entry)
    end
end

--- Whether this watcher may change anything now: it holds the lease, and has seen the catalog since
--- it took it. What it saw before, under an earlier lease, may have been overtaken.
---@return boolean
function Watcher:leads()
    return self.lease.held and self.led ~= nil and self.led == self.lease.times
end

-- Settings, policies and hooks come from the catalog's own text, and again when it was changed.
function Watcher:read_config()
    local state = self.lease.cat and self.lease.cat:state()
    if state and state.config ~= self.snapshot_config then
        self.snapshot_config = state.config
        local described = config.parse(state.config, "the catalog's cluster.lua") or {}
        self.settings = options_of(self.options, described.watch or {})
        self.ctx.settings = self.settings
        self:open_policies(policy.configured(state.config))
        self.hooks:configure(described.on_event or {})
    end
end

-- Said once a minute: nothing is known about the instances meanwhile.
local function lacks(self, message)
    local now = mr.clock()
    if not self.lacked_at or now - self.lacked_at >= LACKS_EVERY_MS then
        self.lacked_at = now
        term.warn("this process lacks what it needs to ask: %s", message)
    end
end

function Watcher:start_prober()
    if self.prober then
        return
    end
    local events = self.events
    self.prober = mr.prober({
        interval_ms = self.settings.interval_ms, timeout_ms = self.settings.timeout_ms,
        fresh_ms = FRESH_MS,
        observed = function(observation)
            if observation.evidence == "shortage" then
                return lacks(self, observation.message)
            end
            events:push({ kind = "observation", observation = observation,
                dbid = observation.dbid })
        end,
    })
end

local function target_of(self, inst, pair)
    local known = pair.memory.inst[inst.dbid]
    local epoch = known and known.word and known.word.epoch
    local sysid = epoch and epoch.valid and epoch.sysid or nil
    local is_primary = inst.role == "p"
    return {
        conn = instance.conninfo(self.env, inst, { application_name = "moonrise probe",
            connect_timeout_ms = self.settings.timeout_ms }),
        sysid = sysid,
        peer_slot = is_primary and pair.mirror and instance.slot_name(pair.mirror) or nil,
        standby = not is_primary,
    }
end

local function target_key(target)
    return table.concat({ target.conn.host, target.conn.port, target.sysid or "-",
                          target.peer_slot or "-", tostring(target.standby) }, " ")
end

--- Tells the prober where the pair's instances are, and what to expect there.
---@param pair table
function Watcher:aim(pair)
    for _, inst in ipairs({ pair.primary, pair.mirror }) do
        local target = target_of(self, inst, pair)
        local key = target_key(target)
        if self.targets[inst.dbid] ~= key then
            self.targets[inst.dbid] = key
            self.prober:set(inst.dbid, target)
        end
    end
end

local function forget(self, snapshot)
    local here = {}
    for _, inst in ipairs(snapshot.instances) do
        here[inst.dbid] = true
    end
    for dbid in pairs(self.targets) do
        if not here[dbid] then
            self.prober:drop(dbid)
            self.targets[dbid], self.by_dbid[dbid] = nil, nil
        end
    end
end

-- That a pause has begun or is over: it also ends by itself, which nobody else tells.
local function tell_pause(self, pair, pause)
    local text = pause and "failover is paused " .. pause.text
        or pair.pause and "failover is not paused any more"
    if text and (pause or {}).text ~= (pair.pause or {}).text and self:leads() then
        self.journal:add("paused", { content = pair.content, dbid = pair.primary.dbid,
            text = text })
    end
    pair.pause = pause
end

--- Takes a new look at the catalog; says whether a pair changed.
---@param snapshot table lib/lease.lua's
---@return integer[] changed contents
function Watcher:apply(snapshot)
    local changed, seen = {}, {}
    self:start_prober()
    forget(self, snapshot)
    for _, rows in ipairs(cluster.pairs(snapshot.instances)) do
        local pair = self.pairs[rows.content]
        if not pair then
            pair = { content = rows.content, memory = fts.memory(rows.content) }
            self.pairs[rows.content] = pair
        end
        local state = snapshot.pairs[rows.content] or { epoch = 0 }
        local held = snapshot.leases[rows.content]
        if held then
            held.gone = hold.is_gone(held.holder)
        end
        if not pair.pair or pair.pair.epoch ~= state.epoch
            or (pair.lease or {}).token ~= (held or {}).token
            or (pair.lease or {}).gone ~= (held or {}).gone
            or (pair.pause ~= nil) ~= (snapshot.pauses[rows.content] ~= nil) then
            table.insert(changed, rows.content)
        end
        pair.primary, pair.mirror, pair.pair, pair.lease = rows.primary, rows.mirror, state, held
        tell_pause(self, pair, snapshot.pauses[rows.content])
        seen[rows.content] = true
        for _, inst in ipairs({ rows.primary, rows.mirror }) do
            self.by_dbid[inst.dbid] = pair
        end
        self:aim(pair)
    end
    for content in pairs(self.pairs) do
        self.pairs[content] = seen[content] and self.pairs[content] or nil
    end
    self.snapshot = snapshot
    self.hosts:look(snapshot)
    half_started.look(self, snapshot)
    watcher_places.look(self, snapshot)
    return changed
end

local function input_for(self, pair, event)
    local now = mr.clock()
    local pause = pair.pause and pair.pause.expires > now and pair.pause or {}
    return {
        now = now, primary = pair.primary, mirror = pair.mirror, pair = pair.pair,
        lease = pair.lease, paused = pause.text, paused_until = pause.expires,
        -- Without a catalog there is nothing to wait for: what can be told is told.
        looked_at = self:leads() and self.snapshot.begun or nil,
        leader = self:leads(), majority = self.hosts:majority(),
        unconfirmed = pair.pair.unconfirmed ~= nil, hosts_ahead = self.hosts.ahead,
        server_version = self.snapshot.version,
        stopped = self.snapshot.state.state == "stopped", settings = self.settings, event = event,
    }
end

-- News is only judged together with a look at the catalog that is as new: it is taken at once.
local function look_if_due(self, pair)
    local doubted = sight.doubted_at(pair.memory)
    pair.unlooked = self:leads() and doubted ~= nil and doubted > self.snapshot.begun
    if pair.unlooked and not self.looking then
        self.looking = true
        self.looks:push(true)
    end
end

--- One step of one pair, and its actions.
---@param pair table
---@param event table
function Watcher:step(pair, event)
    local ok, memory, actions = pcall(fts.step, pair.memory, input_for(self, pair, event))
    if not ok then
        self.journal:add("fault", { content = pair.content, text = tostring(memory) })
        return
    end
    pair.memory = memory
    look_if_due(self, pair)
    for _, action in ipairs(actions) do
        acts.run(self, pair, action)
    end
end

function Watcher:tick()
    local now = mr.clock()
    for _, pair in pairs(self.pairs) do
        if pair.memory.wake and pair.memory.wake <= now then
            self:step(pair, { kind = "tick" })
        end
    end
end

-- How long nothing needs to be done unless something happens.
function Watcher:idle_ms()
    local now, wait = mr.clock(), IDLE_MS
    for _, pair in pairs(self.pairs) do
        if pair.memory.wake then
            wait = math.min(wait, math.max(1, pair.memory.wake - now))
        end
    end
    return wait
end

-- Has the pairs go on that waited for a look at the catalog, and these contents'.
local function step_waiting(self, changed)
    for content, pair in pairs(self.pairs) do
        if pair.unlooked or changed[content] then
            self:step(pair, { kind = "tick" })
        end
    end
end

local handlers = {}

-- Somebody changed these pairs while this watcher was away: it knows no more of them than a watcher
-- that begins.
local function forget_changed(self, snapshot)
    for content, pair in pairs(self.pairs) do
        local state = snapshot.pairs[content]
        if pair.memory.epoch and state and state.epoch ~= pair.memory.epoch then
            local memory = fts.memory(content)
            memory.tasks = pair.memory.tasks
            pair.memory = memory
        end
    end
end

local function begin_leading(self, snapshot)
    self.led, self.told_lost = self.lease.times, nil
    forget_changed(self, snapshot)
    term.info("watching %s as %s", self.env.name, self.holder)
    mr.spawn(self.journal.load, self.journal, self.lease.cat)
end

function handlers.snapshot(self, event)
    if self.snapshot and event.snapshot.begun < self.snapshot.begun then
        return
    end
    if self.lease.held and event.times == self.lease.times and self.led ~= event.times then
        begin_leading(self, event.snapshot)
    end
    local changed = {}
    for _, content in ipairs(self:apply(event.snapshot)) do
        changed[content] = true
    end
    step_waiting(self, changed)
    cycle.begin(self, event.snapshot)
end

function handlers.lost(self, event)
    if event.text ~= self.told_lost then
        self.journal:add("lease", { text = event.text })
    end
    self.led, self.told_lost = nil, event.text
    step_waiting(self, {})
end

-- A majority of the hosts answers that did not, or the other way round.
function handlers.hosts(self)
    step_waiting(self, { [-1] = true })
end

function handlers.cycled(self)
    self.once.done = true
end

function handlers.stop(self)
    self.stopping = true
end

local function for_pair(self, event)
    if event.kind == "observation" then
        cycle.saw(self, event.observation)
    end
    local pair = event.content and self.pairs[event.content] or self.by_dbid[event.dbid]
    if pair then
        self:step(pair, event)
        if event.kind == "word" and event.word then
            self:aim(pair)
        end
    end
end

for _, kind in ipairs({ "observation", "word", "disk", "result", "answer" }) do
    handlers[kind] = for_pair
end

--- Handles the next event, or the passing of time.
function Watcher:turn()
    local event = self.events:pop(self:idle_ms())
    if event then
        local ok, err = pcall(handlers[event.kind], self, event)
        if not ok then
            self.journal:add("fault", { text = ("%s: %s"):format(event.kind, tostring(err)) })
        end
    end
    self:tick()
    cycle.finish(self)
end

--- Starts what runs beside the events: the lease's keeper, and signals.
function Watcher:begin()
    for _, name in ipairs({ "TERM", "INT" }) do
        mr.on_signal(name, function()
            self.events:push({ kind = "stop" })
        end)
    end
    mr.on_signal("HUP", function() end)
    self.keeper = mr.spawn(keeper.keep, self)
end

--- Watches until it is told to stop.
---@return integer exit_code
function Watcher:run()
    self:begin()
    while not self.stopping do
        self:turn()
    end
    self:finish()
    return 0
end

--- One cycle, or one of whoever holds the lease (lib/cycle.lua).
---@param deadline_ms number
---@return boolean done false when it was not all settled in that time
---@return string? why
function Watcher:run_once(deadline_ms)
    return cycle.run(self, deadline_ms)
end

--- Ends: the lease goes back, agents end with their sessions, servers live on.
function Watcher:finish()
    self.stopping = true
    if self.prober then
        self.prober:close()
    end
    self.keeper:cancel()
    self.hooks:close(self.once and self.hooks:deadline_ms() or CLOSE_MS)
    self.journal:close(CLOSE_MS)
    self.lease:close()
    self.ctx.agents:close()
    self.ctx.policies:close()
    term.info("the watcher has ended")
end

return M
