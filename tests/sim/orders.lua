--- What the agents' orders do to a simulated server, step by step as engine/agent/*.c does it: any
--- of their processes may die between two steps, and each statement takes its time.
local copy = require("tests.lib.copy")
local real = require("moonrise")

local M = {}

--- Raises what the caller of an order gets as its error.
---@param code string
---@param text string
---@param ... any
function M.refuse(code, text, ...)
    error({ code = code, text = text:format(...) }, 0)
end

local refuse = M.refuse

-- Runs a statement on the server, which takes its time and goes on when its agent dies: what
-- earlier orders have on the way is ended first.
local function sql(host, server, claim, fn)
    if not server:accepts() then
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

-- All processes of the directory, or, where that rule is broken, what its lock file names.
local function stopped(server)
    return not server.up and not (server.world.rules.stopped and next(server.orphans))
end

local function fence(server)
    if server.world.rules.stopped then
        server:kill()
    else
        server:kill_postmaster()
    end
    -- Marked while it ran: now nothing can start it.
    if server.epoch.marked then
        server.aside = true
    end
end

local ops = {}
M.ops = ops

local function set_names(host, server, claim, names)
    sql(host, server, claim, function()
        server:set_names(names)
    end)
end

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

-- Nobody waits, and a commit was seen passing.
local function begin_released(host, server, claim)
    set_names(host, server, claim, "")
    if not canary_returns(host, server, 1000) then
        refuse("timeout", "commits still wait")
    end
end

local function wait_for_nobody(host, server, claim)
    set_names(host, server, claim, ("mr_nobody_%d"):format(claim.epoch))
    if not canary_waits(host, server) then
        set_names(host, server, claim, "")
        refuse("timeout", "no canary waits")
    end
end

local function borrowed(server, name)
    local bearers = 0
    for link in pairs(server.senders) do
        bearers = bearers + (link.name == name and 1 or 0)
    end
    return bearers > 1
end

function ops.arm(host, server, claim, args)
    local rules = host.world.rules
    if rules.borrowed and borrowed(server, args.name) then
        refuse("refused", "another receiver bears the name")
    end
    begin_released(host, server, claim)
    if rules.canary then
        wait_for_nobody(host, server, claim)
    end
    if not rules.never_empty then
        set_names(host, server, claim, "")
    end
    set_names(host, server, claim, rules.one_name and args.name or "*")
    if rules.canary and rules.returned and not canary_returns(host, server, 1000) then
        set_names(host, server, claim, "")
        refuse("timeout", "the canary does not return")
    end
    return { insert_lsn = real.lsn_text(rules.returned and #server.wal or 0), waited_ms = 0 }
end

function ops.release(host, server, claim, args)
    if server.up and server.in_recovery then
        refuse("refused", "in recovery: no primary")
    end
    set_names(host, server, claim, "")
    host.unlock()
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
    host.unlock()
    local streaming = eventually(host, 5000, function()
        return server.link and server.link.name == args.name
    end)
    return { streaming = streaming, changed = true }
end

-- The mirror answers for itself, immediately before it is promoted.
local function unfit(server, flush)
    local asked = server.world.rules.fit
    if asked and server.paused then
        return "its replay is paused"
    elseif asked and server.names ~= "" then
        return "its own writes would hang"
    elseif #server.wal < flush then
        return ("received up to %d, %d was seen flushed there"):format(#server.wal, flush)
    end
    return nil
end

function ops.promote(host, server, claim, args)
    if server.epoch.marked then
        refuse("refused", "marked")
    end
    return sql(host, server, claim, function()
        local no = server.in_recovery and unfit(server, real.lsn(args.flush_lsn))
        if no then
            return nil, no
        elseif server.in_recovery then
            server.slots[5 - server.dbid] = true
            server:promote()
        end
        return { timeline = server.timeline, switch_lsn = real.lsn_text(server.switch or 0) }
    end)
end

function ops.fence(_, server)
    fence(server)
    server.world:moment("stopped")
    return { stopped = true }
end

function ops.mark(_, server)
    if server.world.rules.mark then
        server.epoch.marked = true
        server.aside = server.aside or stopped(server)
    end
    return { marked = server.epoch.marked, aside = server.aside }
end

function ops.start(host, server, claim, args)
    if server.epoch.marked then
        refuse("refused", "marked")
    elseif server.aside or server.patching and host.world.rules.control then
        refuse("refused", "half-made")
    end
    local already = server.up and server.listen
    -- As a tool does that knows nothing of what the directory was last.
    if not host.world.rules.history and claim.role == "m" then
        server.standby, server.names = true, ""
    end
    if not already then
        fence(server)
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

local function end_of(server)
    return server.shutdown_end and real.lsn_text(server.shutdown_end)
end

function ops.stop(host, server, claim, args)
    if server:running() then
        server:shut_down()
    end
    host.unlock()
    eventually(host, args.wait_ms or 8000, function()
        return not server.up
    end)
    if server.epoch.epoch ~= claim.epoch or server.epoch.step ~= claim.step then
        refuse("stale", "another order has come meanwhile")
    end
    fence(server)
    server.world:moment("stopped")
    return { stopped = true, shutdown_end = end_of(server), timeline = server.timeline }
end

function ops.bar(_, server, claim)
    local last = server.epoch
    last.barred = claim.epoch
    return { epoch = last.epoch, order = last.order, marked = last.marked,
             standby_signal = server.standby, newest_timeline = server.timeline }
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
    server.stream_name = server.world:bare_name(server.dbid)
    return {}
end

function ops.slot(_, server, _, args)
    server.slots[tonumber(args.name:match("%d+$"))] = args.create ~= false or nil
    return {}
end

local function check_source(source)
    if not source:accepts() or source.in_recovery then
        refuse("connect", "the source does not answer")
    end
end

local function check_target(server)
    if server.world.rules.proof and not stopped(server) then
        refuse("running", "it runs")
    end
end

-- What the copy has written is on the disk when it has been flushed, or some time later anyway.
local function write_copy(server, source)
    server.copies, server.wal = server.copies + 1, {}
    for i, record in ipairs(source.wal) do
        server.wal[i] = record
    end
    server.timeline, server.history = source.timeline, source.history
    server.standby, server.names, server.state = true, "", "in archive recovery"
    server.stream_name = server.world:bare_name(server.dbid)
    server.slots, server.shutdown_end, server.unflushed = {}, nil, server.copies
    server.world.clock:after(5000, function()
        if server.unflushed == server.copies then
            server.unflushed = nil
        end
    end)
    server.world:moment("copied")
end

-- pg_control is put in its place, and the instance is bound by its new epoch.
local function adopt(server, claim)
    server.aside, server.patching = false, nil
    server.epoch = { valid = true, epoch = claim.epoch, step = claim.step, order = "recover",
                     marked = false, sysid = "7", barred = 0 }
end

local function flush_copy(host, server)
    host.mr.sleep(20 + host.world.dice:number(200))
    server.unflushed = nil
end

-- A copy: the directory is proven stopped, pg_control moved aside, proven again; everything of the
-- source's is taken and flushed, and pg_control comes last.
function ops.recover(host, server, claim, args)
    local world = server.world
    local source = world.servers[args.source.dbid]
    check_target(server)
    check_source(source)
    server.aside, server.patching = world.rules.control, true
    world:moment("copying")
    check_target(server)
    source.slots[server.dbid] = true
    server:tear()
    for _ = 1, 4 do
        host.mr.sleep(20 + world.dice:number(100))
        check_target(server)
        check_source(source)
    end
    write_copy(server, source)
    if not world.rules.flush then
        adopt(server, claim)
    end
    flush_copy(host, server)
    adopt(server, claim)
    return ops.start(host, server, claim, {})
end

-- Of a record's content: no two checkpoints have the same.
local function sum_of(record)
    return tostring(record)
end

--- Which checkpoint a server's WAL holds at a position.
---@param server table
---@param checkpoint string LSN
---@return table answer
function M.history_of(server, checkpoint)
    local record = server.wal[real.lsn(checkpoint)]
    return { known = server.world.rules.history, checkpoint_sum = record and sum_of(record) }
end

--- What the host says of an instance.
---@param server table
---@return table word
function M.word_of(server)
    local at, record = server:checkpoint()
    local status = server.stopping and "stopping" or server.recovering and "starting"
        or server.standby and "standby" or "ready"
    return {
        kind = server.aside and "half-made" or "datadir", stopped = stopped(server),
        processes = {}, standby_signal = server.standby, epoch = copy(server.epoch),
        postmaster = { alive = server.up, status = server.up and status or nil,
                       listen = server.up and (server.listen and "localhost" or "") or nil },
        control = { sysid = "7", aside = server.aside, timeline = server.timeline,
                    newest_timeline = server.timeline, state = server.state,
                    checkpoint = at and real.lsn_text(at), checkpoint_sum = at and sum_of(record) },
        patch = server.patching and { sysid = "7" } or nil,
        data_bytes = 1000,
    }
end

return M
