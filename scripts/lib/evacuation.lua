--- Taking every instance of one host out of service: `moonrise stop --host H`.
---
--- First the pairs whose primary is there are handed over; then each mirror there, the standby
--- coordinator among them, is recorded as down, its primary goes on without it, and it is stopped:
--- record first, so that nobody waits for what is about to go. Each pair is done under its own
--- lease, in one of its good states before and after, so that a run that was killed is run again.
local mr = require("moonrise")
local alone = require("lib.alone")
local bring_down = require("lib.bring_down")
local cluster = require("lib.cluster")
local handover = require("lib.handover")
local handover_waves = require("lib.handover_waves")
local hold = require("lib.hold")
local stop_requests = require("lib.stop_requests")
local term = require("lib.term")

local M = {}

---@class Evacuation
---@field host string
---@field handovers table[] pairs whose primary is there
---@field mirrors table[] pairs whose mirror is there, or will be
---@field refused Error[] why the host cannot be evacuated

local function refuse(inst, message, hint)
    return mr.error("refused", message, { instance = cluster.name(inst), hint = hint })
end

-- What about a primary there keeps the host from being evacuated.
local function primary_refusal(ctx, pair, host)
    if pair.content == -1 then
        return refuse(pair.primary, "the coordinator is on this host",
            "moonrise stop stops the whole cluster")
    elseif not pair.mirror then
        return refuse(pair.primary, "it has no mirror to take over from it",
            "with it the content goes: moonrise stop stops the whole cluster")
    elseif pair.mirror.hostname == host then
        return refuse(pair.primary, "its mirror is on the same host",
            "with both the content goes: moonrise stop stops the whole cluster")
    end
    local _, err = handover.ready(ctx, pair, handover.MAX_LAG_BYTES)
    return err
end

local function sort_in(ctx, plan, pair, leased)
    local there = pair.primary.hostname == plan.host
    local mirror_there = pair.mirror and pair.mirror.hostname == plan.host
    if not there and not mirror_there then
        return
    elseif leased[pair.content] then
        table.insert(plan.refused, mr.error("busy", ("content %d is in the hands of %s (%s)")
            :format(pair.content, leased[pair.content].holder, leased[pair.content].intent),
            { hint = "wait until it is done; moonrise state -e shows it" }))
    elseif there then
        table.insert(plan.refused, primary_refusal(ctx, pair, plan.host))
        table.insert(plan.handovers, pair)
    else
        table.insert(plan.mirrors, pair)
    end
end

--- What is to be done, and what forbids it; nothing is touched.
---@param ctx table {env, cat, agents}
---@param host string
---@return Evacuation? plan
---@return Error? err code "usage" when no instance of the cluster is there
function M.plan(ctx, host)
    local instances, err = ctx.cat:instances()
    local leases
    if instances then
        leases, err = ctx.cat:leases()
    end
    if not leases then
        return nil, err
    end
    local leased, here = {}, false
    for _, lease in ipairs(leases) do
        leased[lease.content] = not hold.is_over(lease) and lease or nil
    end
    local plan = { host = host, handovers = {}, mirrors = {}, refused = {} }
    for _, inst in ipairs(instances) do
        here = here or inst.hostname == host
    end
    if not here then
        return nil, mr.error("usage", ("the cluster has no instance on host %s"):format(host))
    end
    mr.parallel(cluster.pairs(instances), #instances, function(pair)
        sort_in(ctx, plan, pair, leased)
        return true
    end)
    return plan
end

local function by_content(a, b)
    return a.content < b.content
end

--- Says what will be done.
---@param plan Evacuation
function M.print(plan)
    table.sort(plan.handovers, by_content)
    table.sort(plan.mirrors, by_content)
    term.info("Stop everything on host %s; the rest of the cluster goes on", plan.host)
    for _, pair in ipairs(plan.handovers) do
        term.info("   content %d: primary becomes %s, without a copy", pair.content,
            cluster.name(pair.mirror))
    end
    for _, pair in ipairs(plan.handovers) do
        term.info("   then stopped as a mirror: %s", cluster.name(pair.primary))
    end
    for _, pair in ipairs(plan.mirrors) do
        term.info("   stopped, its primary goes on alone: %s", cluster.name(pair.mirror))
    end
    term.info("   these contents have no second instance then: none of them is failed over")
end

-- The instance there under its content's lease: its pair as it is now.
local function take_out(ctx, content, plan, options, token)
    local pair, err = ctx.cat:pair(content)
    if not pair then
        return nil, err
    elseif not pair.mirror or pair.mirror.hostname ~= plan.host then
        return nil, refuse(pair.primary, "its pair has changed since the plan was made",
            "run stop --host again")
    end
    local ok
    ok, err = alone.go_on(ctx, pair, token, "its host is taken out of service")
    local epoch
    if ok then
        epoch, err = ctx.cat:call("epoch_reserve", token, content, "stop: its host")
    end
    if not epoch then
        return nil, err
    end
    return bring_down.stop_instance(ctx, pair.mirror, epoch, options)
end

local function stop_mirror(ctx, pair, plan, options)
    local inst = pair.mirror.hostname == plan.host and pair.mirror or pair.primary
    if pair.result and pair.result.error then
        return { inst = inst, outcome = "failed", err = pair.result.error }
    elseif stop_requests.asked() then
        return { inst = inst, outcome = "failed", err = mr.error("cancelled", "not begun",
            { instance = cluster.name(inst), hint = "run stop --host again for the rest" }) }
    end
    local done, err = hold.content(ctx, pair.content, "stop", "host", function(lease)
        return take_out(ctx, pair.content, plan, options, lease.token)
    end)
    return { inst = inst, err = err, killed = done and done.fenced,
             outcome = (not done and "failed") or (done.already and "already") or "stopped" }
end

--- Carries the plan out. A pair that cannot be handed over is left as it is; the rest goes on.
---@param ctx table {env, cat, agents}
---@param plan Evacuation
---@param options {mode: "fast"|"immediate", wait_ms: integer, batch: integer}
---@return table[] results {inst, outcome, err}
function M.run(ctx, plan, options)
    if #plan.handovers > 0 then
        handover_waves.run(ctx, { plan.handovers }, { batch = options.batch }, "roles changed")
    end
    local all = {}
    for _, list in ipairs({ plan.handovers, plan.mirrors }) do
        for _, pair in ipairs(list) do
            table.insert(all, pair)
        end
    end
    return stop_requests.between("Stop before the next instance", function()
        return mr.parallel(all, options.batch, function(pair)
            return stop_mirror(ctx, pair, plan, options)
        end)
    end)
end

return M
