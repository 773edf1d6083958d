--- Returning every instance to its preferred role: which pairs, in which waves, one after another.
local mr = require("moonrise")
local cluster = require("lib.cluster")
local handover_waves = require("lib.handover_waves")
local instance = require("lib.instance")
local policy = require("lib.policy")
local proceed = require("lib.proceed")
local term = require("lib.term")

local M = {}

local function out_of_place(pair)
    return pair.content >= 0 and pair.mirror and pair.primary.preferred_role ~= "p"
end

-- The policy's waves as lists of pairs; what is in none is taken from `left`.
local function waves_of(answer, left)
    local waves = {}
    for _, wave in ipairs(answer.waves) do
        local members = {}
        for _, content in ipairs(wave) do
            table.insert(members, left[content])
            left[content] = nil
        end
        if #members > 0 then
            table.insert(waves, members)
        end
    end
    return waves
end

local function why_left(ctx, pair)
    if pair.mirror.status ~= "u" then
        return "its mirror is down", "moonrise recoverseg brings it back"
    elseif pair.mirror.mode ~= "s" and not instance.ask(ctx.env, pair.primary, "select 1") then
        return "its primary does not serve", "moonrise start starts it again"
    elseif pair.mirror.mode ~= "s" then
        return "its mirror is not in sync yet", "moonrise state -m shows when it is"
    end
    return "the rebalance policy leaves it out"
end

--- The rebalance policy's waves of pairs that are out of place, and the pairs that are in none.
---@param ctx table
---@return {waves: table[], left: {pair: table, err: Error}[]}? plan
---@return Error? err
function M.plan(ctx)
    local list, err = ctx.cat:pairs(out_of_place)
    local plan = { waves = {}, left = {} }
    if not list or #list == 0 then
        return list and plan, err
    end
    local facts, left = { pairs = {} }, {}
    for _, pair in ipairs(list) do
        left[pair.content] = pair
        table.insert(facts.pairs, {
            content = pair.content, mode = pair.primary.mode, mirror_status = pair.mirror.status,
            primary_host = pair.primary.hostname, mirror_host = pair.mirror.hostname })
    end
    plan.waves = waves_of(policy.ask(ctx, "rebalance", facts), left)
    for _, pair in ipairs(list) do
        if left[pair.content] then
            local why, hint = why_left(ctx, pair)
            table.insert(plan.left, { pair = pair, err = mr.error("refused",
                "not in its preferred role, and left so: " .. why,
                { instance = cluster.name(pair.primary), hint = hint }) })
        end
    end
    return plan
end

local function print_plan(plan)
    for _, entry in ipairs(plan.left) do
        term.error(entry.err)
    end
    if #plan.waves == 0 then
        return
    end
    term.info("Rebalance plan: %d wave(s)", #plan.waves)
    for i, wave in ipairs(plan.waves) do
        for _, pair in ipairs(wave) do
            term.info("   wave %d   content %d: primary becomes %s", i, pair.content,
                cluster.name(pair.mirror))
        end
    end
end

local function hand_over(ctx, plan, opts)
    return handover_waves.run(ctx, plan.waves, opts, "roles returned")
end

local function as_json(plan)
    local pairs_told, left = {}, {}
    for i, wave in ipairs(plan.waves) do
        for _, pair in ipairs(wave) do
            table.insert(pairs_told, handover_waves.as_json(pair, i))
        end
    end
    for _, entry in ipairs(plan.left) do
        table.insert(left, { content = entry.pair.content, reason = tostring(entry.err) })
    end
    return { handed_over = mr.json_array(pairs_told), left = mr.json_array(left) }
end

--- `recoverseg -r`.
---@param ctx table
---@param opts table recoverseg's options
---@return integer? code
---@return Error? err
function M.run(ctx, opts)
    local plan, err = M.plan(ctx)
    if not plan then
        return nil, err
    elseif #plan.waves + #plan.left == 0 then
        term.info("All instances are in their preferred roles")
    end
    print_plan(plan)
    return proceed(ctx, opts, { plan = plan, is_some = #plan.waves > 0, failures = #plan.left,
        question = "Continue with segment rebalance procedure", act = hand_over,
        as_json = as_json })
end

return M
