--- What lib/agents.lua is in a simulated process: orders that travel, wait for the instance's lock,
--- are compared with its epoch, and are carried out in steps between which anything may happen.
local copy = require("tests.lib.copy")
local engine = require("tests.sim.engine")
local process = require("tests.sim.process")
local real = require("moonrise")

local M = {}

local Set = {}
Set.__index = Set

local STEPS = process.loader({ moonrise = real })("lib.agents").steps
local LOCK_MS, LOST_MS = 15000, 60000

local function refuse(code, text, ...)
    error({ code = code, text = text:format(...) }, 0)
end

local function order_text(claim)
    return ("%s of epoch %d step %d"):format(claim.op, claim.epoch, claim.step)
end

local function newer(a, b)
    return a.epoch > b.epoch or (a.epoch == b.epoch and a.step > b.step)
end

local function lock(host, server, claim)
    local until_ms = host.world.clock.now + LOCK_MS
    while server.locked and server.locked.host.alive do
        local holder = server.locked.claim
        if newer(holder, claim) then
            refuse("stale", "%s is being carried out", order_text(holder))
        elseif host.world.clock.now > until_ms then
            refuse("busy", "%s is being carried out", order_text(holder))
        end
        host.mr.sleep(10)
    end
    server.locked = { host = host, claim = claim }
end

local function unlock(server, claim)
    if server.locked and server.locked.claim == claim then
        server.locked = nil
    end
end

local function compare(server, claim)
    local last = server.epoch
    if not last.valid then
        refuse("refused", "no valid epoch file")
    elseif server.world.rules.epochs and not newer(claim, last) and not (claim.epoch == last.epoch
        and claim.step == last.step and claim.op == last.order) then
        refuse("stale", "%s comes too late: the last was %s of epoch %d", order_text(claim),
            last.order, last.epoch)
    end
    last.epoch, last.step, last.order = claim.epoch, claim.step, claim.op
end

-- Runs a statement on the server, which takes its time and goes on when its agent dies: what
-- earlier orders have on the way is ended first.
local function sql(host, server, claim, fn)
    if not server:running() or server.recovering then
        refuse("connect", "the server does not answer")
    end
    server.flying = server.flying or {}
    if server.world.rules.statements then
        for number, message in pairs(server.flying) do
            message.off = true
            server.flying[number] = nil
        end
    end
    local world, done = server.world, host.mr.queue()
    local message = world:deliver(server.life, world.faults.late, 1 + world.dice:number(3),
        function(message)
            server.flying[message.number] = nil
            done:push({ fn() })
        end)
    server.flying[message.number] = message
    local answer = done:pop(5000)
    if not answer then
        refuse("timeout", "%s: the statement was not answered", claim.op)
    end
    return unpack(answer, 1, table.maxn(answer))
end

local function eventually(host, ms, fn)
    local until_ms = host.world.clock.now + ms
    repeat
        if fn() then
            return true
        end
        host.mr.sleep(2)
    until host.world.clock.now > until_ms
    return false
end

local ops = {}

-- Whether a commit made now waits, as a canary shows it.
local function canary_waits(host, server)
    return eventually(host, 1000, function()
        return server.up and server.flag
    end)
end

local function canary_returns(host, server, ms)
    local returned = false
    server:commit({ canary = true }, function()
        returned = true
    end)
    return eventually(host, ms, function()
        return returned
    end)
end

function ops.arm(host, server, claim, args)
    local function set(names)
        sql(host, server, claim, function()
            server:set_names(names)
        end)
    end
    set("")
    if not canary_returns(host, server, 1000) then
        refuse("timeout", "commits still wait")
    end
    if host.world.rules.canary then
        set(("mr_nobody_%d"):format(claim.epoch))
        if not canary_waits(host, server) then
            set("")
            refuse("timeout", "no canary waits")
        end
    end
    set(args.name)
    if host.world.rules.canary and not canary_returns(host, server, 1000) then
        set("")
        refuse("timeout", "the canary does not return")
    end
    return { insert_lsn = real.lsn_text(#server.wal), waited_ms = 0 }
end

function ops.release(host, server, claim, args)
    if server.up and server.in_recovery then
        refuse("refused", "in recovery: no primary")
    end
    sql(host, server, claim, function()
        server:set_names("")
    end)
    unlock(server, claim)
    if not canary_returns(host, server, args.wait_ms or 30000) then
        refuse("timeout", "commits still wait for a mirror")
    end
    return { waited_ms = 0 }
end

function ops.name(host, server, claim, args)
    if not server.up or not server.in_recovery then
        refuse("refused", "no mirror")
    end
    sql(host, server, claim, function()
        if server.stream_name ~= args.name then
            server:rename(args.name)
        end
    end)
    unlock(server, claim)
    local streaming = eventually(host, 5000, function()
        return server.link and server.link.name == args.name
    end)
    return { streaming = streaming, changed = true }
end

function ops.promote(host, server, claim, args)
    if server.epoch.marked then
        refuse("refused", "marked")
    end
    return sql(host, server, claim, function()
        local flush = real.lsn(args.flush_lsn)
        if server.in_recovery and #server.wal < flush and server.world.rules.received then
            return nil, ("received up to %d, %d was seen flushed there"):format(#server.wal, flush)
        elseif server.in_recovery then
            server.slots[5 - server.dbid] = true
            server:promote()
        end
        return { timeline = server.timeline, switch_lsn = real.lsn_text(server.switch or 0) }
    end)
end

function ops.fence(_, server)
    server:kill()
    return { stopped = true }
end

function ops.mark(_, server)
    server.epoch.marked = true
    if not server.up and server.world.rules.mark then
        server.aside = true
    end
    return { marked = true, aside = server.aside }
end

function ops.start(host, server, claim, args)
    if server.epoch.marked and host.world.rules.mark then
        refuse("refused", "marked")
    elseif server.aside then
        refuse("refused", "half-made")
    end
    local already = server.up and server.listen
    -- As a tool does that knows nothing of what the directory was last.
    if not host.world.rules.history and claim.role == "m" then
        server.standby, server.names = true, ""
    end
    if not already then
        server:kill()
        server:start(true)
    end
    eventually(host, math.min(args.wait_ms or 60000, 5000), function()
        return server.up and not server.recovering
    end)
    local streaming = server.standby and eventually(host, 3000, function()
        return server.link ~= nil
    end)
    return { already = already, in_recovery = server.in_recovery, streaming = streaming }
end

function ops.stop(host, server, claim, args)
    if not server.up then
        return { stopped = true, shutdown_end = server.shutdown_end }
    end
    local source = not server.in_recovery
    if not server:running() then
        host.mr.sleep(args.wait_ms or 8000)
        refuse("timeout", "it does not stop in time")
    end
    unlock(server, claim)
    if source then
        -- Clients go first; what waits then is never acknowledged. The walsender stays for the end.
        server.waiting, server.listen = {}, false
        table.insert(server.wal, { shutdown = true })
        local stop_at = #server.wal
        eventually(host, 2000, function()
            local other = server.world.servers[5 - server.dbid]
            return other.link and other.link.source == server and #other.wal >= stop_at
        end)
        server.shutdown_end = real.lsn_text(stop_at)
    end
    server:kill()
    return { stopped = true, shutdown_end = server.shutdown_end, timeline = server.timeline }
end

function ops.checkpoint(host)
    host.mr.sleep(50)
    return {}
end

function ops.configure(_, server, _, args)
    if args.standby ~= nil then
        server.standby = args.standby
    end
    server.names = args.settings.synchronous_standby_names == false and "" or server.names
    server.stream_name = ("mr_0_%d"):format(server.dbid)
    return {}
end

function ops.slot(_, server, _, args)
    server.slots[tonumber(args.name:match("%d+$"))] = args.create ~= false or nil
    return {}
end

-- A copy: the directory is stopped, everything of the source's is taken, pg_control comes last.
function ops.recover(host, server, claim, args)
    local source = server.world.servers[args.source.dbid]
    if server.up then
        refuse("running", "it runs")
    elseif not source:running() or source.in_recovery or source.recovering then
        refuse("connect", "the source does not answer")
    end
    server.aside = server.world.rules.control
    server.world:moment("copying")
    source.slots[server.dbid] = true
    server.wal, server.history, server.names = {}, source.history, ""
    for _ = 1, 4 do
        host.mr.sleep(20 + host.world.dice:number(100))
        if server.up or not source:running() then
            refuse("connect", "the source was lost")
        end
    end
    for i, record in ipairs(source.wal) do
        server.wal[i] = record
    end
    server.timeline, server.standby, server.names = source.timeline, true, ""
    server.stream_name = ("mr_0_%d"):format(server.dbid)
    server.slots, server.shutdown_end = {}, nil
    server.epoch = { valid = true, epoch = claim.epoch, step = claim.step, order = "recover",
                     marked = false, sysid = "7" }
    server.aside = false
    return ops.start(host, server, claim, {})
end

local function carry_out(host, server, claim, args)
    lock(host, server, claim)
    compare(server, claim)
    local result, problem = ops[claim.op](host, server, claim, args)
    if not result then
        refuse("refused", "%s", problem)
    end
    return result
end

-- What the host says of an instance.
local function word_of(server)
    local status = server.recovering and "starting" or server.standby and "standby" or "ready"
    return {
        kind = server.aside and "half-made" or "datadir", stopped = not server.up,
        processes = {}, standby_signal = server.standby, epoch = copy(server.epoch),
        postmaster = { alive = server.up, status = server.up and status or nil,
                       listen = server.up and (server.listen and "localhost" or "") or nil },
        control = { sysid = "7", aside = server.aside, timeline = server.timeline,
                    newest_timeline = server.timeline },
        data_bytes = 1000,
    }
end

-- Has fn(host) run by an agent on the host; what it gives comes back, unless the agent dies. What
-- is never answered shows as a session that is lost, long before a measurement is given up.
local function travel(self, timeout_ms, fn)
    local world = self.process.world
    local value, err = self.process.mr.await(math.min(timeout_ms, LOST_MS), function(answer)
        world:deliver(world.clock, world.faults.late, 0.5 + world.dice:number(10), function()
            local host = process.new(world, "agent")
            world.hosts[host.pid] = host
            host.mr = engine.new(host)
            host:on_end(function()
                world.hosts[host.pid] = nil
                answer(nil, { code = "connect", text = "the agent is gone" })
            end)
            host.mr.spawn(function()
                local ok, result = pcall(fn, host)
                world.hosts[host.pid] = nil
                world.clock:after(world:statement_ms(), function()
                    answer(ok and result or nil, not ok and result or nil)
                end)
            end)
        end)
    end)
    if not value and type(err) == "string" then
        world:fault(err)
        err = { code = "system", text = err }
    end
    return value, err and err.text and real.error(err.code, err.text) or err
end

function Set:order(inst, op, args, options)
    local server = self.process.world.servers[inst.dbid]
    local claim = { op = op, epoch = args.epoch, step = args.step or STEPS[op], role = inst.role }
    self.process.world:trace("order %s dbid %d epoch %d", op, inst.dbid, args.epoch)
    local timeout = options and options.timeout_ms
    return travel(self, timeout and timeout > 0 and timeout or LOST_MS, function(host)
        local ok, result = pcall(carry_out, host, server, claim, args)
        unlock(server, claim)
        if not ok then
            error(result, 0)
        end
        return result
    end)
end

function Set:inspect(inst, _, options)
    local server = self.process.world.servers[inst.dbid]
    return travel(self, options and options.timeout_ms or 3000, function()
        return word_of(server)
    end)
end

function Set:disk()
    return travel(self, 3000, function()
        return { writable = true }
    end)
end

function Set.close() end

--- The module for a process.
---@param of table the process
---@return table module as lib/agents.lua's
function M.module(of)
    return {
        steps = STEPS,
        new = function()
            return setmetatable({ process = of }, Set)
        end,
        is_local = function()
            return true
        end,
    }
end

return M
