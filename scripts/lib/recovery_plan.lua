--- What `recoverseg` is about to do: candidates, prices, the policy's choice, and its printed form.
local mr = require("moonrise")
local by_host = require("lib.by_host")
local cluster = require("lib.cluster")
local double_fault = require("lib.double_fault")
local history = require("lib.history")
local instance = require("lib.instance")
local move = require("lib.move")
local policy = require("lib.policy")
local rate_shares = require("lib.rate_shares")
local recovery = require("lib.recovery")
local survivors = require("lib.survivors")
local term = require("lib.term")

local M = {}

-- Bytes a second until the cluster's own journal knows better.
local ASSUMED_RATES = { read = 400 * 2 ^ 20, write = 200 * 2 ^ 20 }

-- Rates of this cluster's last recovery of either kind, from the journal.
local function measured_rates(ctx)
    local rows = ctx.cat:query([[
        select data->>'type' as type, (data->>'bytes_done')::float8 as bytes,
               (data->>'took_ms')::float8 as ms
        from journal where kind = 'recovered' and data ? 'bytes_done' order by id desc limit 8]])
    local read, write
    for _, row in ipairs(rows or {}) do
        if row.ms and row.ms > 100 and row.bytes and row.bytes > 2 ^ 27 then
            local rate = row.bytes * 1000 / row.ms
            if row.type == "full" then
                write = write or rate
            else
                read = read or 2 * rate
            end
        end
    end
    return { read = read or ASSUMED_RATES.read, write = write or ASSUMED_RATES.write }
end

local function is_down(pair)
    return pair.mirror and pair.mirror.status == "d"
end

-- What is up needs no recovery, and may have nobody who arms it, after a run that was killed.
local function is_behind(pair)
    return pair.mirror and pair.mirror.status == "u" and pair.mirror.mode == "n"
end

local function is_in_sync(pair)
    return pair.mirror and pair.mirror.status == "u" and pair.mirror.mode == "s"
end

-- What is in sync needs no recovery, unless its primary was put back from an older copy: then it
-- must not be the one that is made equal to the other.
local function older_copies(ctx, list, limit)
    local found = {}
    for _, older in ipairs(mr.parallel(list, limit, function(pair)
        local word = history.look(ctx, pair)
        local state = word and ctx.cat:pair_state(pair.content)
        local why = state and instance.older_copy(word, state)
        return why and { target = pair.primary, err = history.older_copy(pair, why) } or {}
    end)) do
        table.insert(found, older.target and older or nil)
    end
    return found
end

local function facts_of(failed, rates)
    local prices = {}
    for kind, possible in pairs(failed.possible) do
        if possible then
            prices[kind] = recovery.price(failed, kind, rates)
        end
    end
    return { dbid = failed.target.dbid, content = failed.content, possible = failed.possible,
             why = failed.why, prices = prices, kind = failed.word.kind,
             data_bytes = failed.source_word.data_bytes or 0 }
end

local function forced(opts)
    return (opts.full and "full") or (opts.differential and "differential") or nil
end

-- What is to be done about each, in the order of work: { failed, choice? }[]. What the policy does
-- not name comes last, without a choice.
local function in_order(failed_list, answers)
    local by_dbid, list = {}, {}
    for _, failed in ipairs(failed_list) do
        by_dbid[failed.target.dbid] = failed
    end
    for _, choice in ipairs(answers) do
        table.insert(list, { failed = by_dbid[choice.dbid], choice = choice })
        by_dbid[choice.dbid] = nil
    end
    for _, failed in ipairs(failed_list) do
        if by_dbid[failed.target.dbid] then
            table.insert(list, { failed = failed })
        end
    end
    return list
end

-- What somebody has asked for just this instance: a line of a recovery file, another place.
local function asked_for(failed, opts)
    local wanted = failed.wanted or {}
    if failed.from then
        local goes_on = failed.word.kind == "datadir"
        return { type = goes_on and "differential" or "full",
                 reason = failed.stays and "in its directory"
                    or failed.resumes and "an earlier run is gone on with" or "to another place" }
    elseif wanted.type == "incremental" then
        return { type = failed.possible.differential and "differential" or "full",
                 reason = "incremental was asked for: all blocks are compared instead" }
    end
    local kind = wanted.type or forced(opts)
    return kind and { type = kind, reason = "asked for" }
end

local function choose(ctx, failed_list, rates, opts)
    local list, open, facts = {}, {}, { instances = {} }
    for _, failed in ipairs(failed_list) do
        local choice = asked_for(failed, opts)
        if choice then
            table.insert(list, { failed = failed, choice = choice })
        else
            table.insert(open, failed)
            table.insert(facts.instances, facts_of(failed, rates))
        end
    end
    if #open > 0 then
        local answers = policy.ask(ctx, "recovery", facts).instances
        for _, item in ipairs(in_order(open, answers)) do
            table.insert(list, item)
        end
    end
    return list
end

local function refuse(failed, message, hint)
    return { target = failed.target,
             err = mr.error("refused", message,
                 { instance = cluster.name(failed.target), hint = hint }) }
end

local function is_possible(failed)
    return failed.possible.start or failed.possible.differential or failed.possible.full
end

-- Another cluster's directory is replaced by who asked for a full recovery and said so: -a alone,
-- which stands in many a crontab, does not say it.
local function foreign_refusal(failed, opts)
    local hint
    if not opts.full and (failed.wanted or {}).type ~= "full" then
        hint = "a full recovery (-F) replaces everything in it, and asks before it does"
    elseif opts.yes and not opts.replace_foreign then
        hint = "-a alone does not replace it: add --replace-foreign, or leave -a out and answer"
    else
        failed.possible.full = true
        return nil
    end
    return refuse(failed, failed.why, hint)
end

local function settle(failed, choice, rates, opts)
    local refused = failed.foreign_system and foreign_refusal(failed, opts)
    if refused then
        return nil, refused
    elseif not is_possible(failed) then
        return nil, refuse(failed, "no recovery is possible: " .. failed.why)
    elseif not choice then
        return nil, refuse(failed, "the recovery policy names no type for it")
    elseif not failed.possible[choice.type] then
        return nil,
            refuse(failed, ("%s recovery is not possible: %s"):format(choice.type, failed.why),
            choice.type == "differential"
                and "a full recovery (-F) replaces everything in the directory"
            or nil)
    end
    failed.type = choice.type
    failed.reason = choice.reason or ""
    failed.max_rate = choice.max_rate and math.ceil(choice.max_rate)
    failed.price = recovery.price(failed, choice.type, rates)
    return failed
end

-- Pairs that a recovery can help: their primaries are not lost with their mirrors.
local function candidates(ctx, faults, fits)
    local lost = {}
    for _, fault in ipairs(faults) do
        lost[fault.content] = true
    end
    return ctx.cat:pairs(function(pair)
        return fits(pair) and not lost[pair.content]
    end)
end

local function limits_of(opts)
    return { hosts = opts.hosts or 16, batch = opts.batch or 64 }
end

local function by_content(targets)
    local list = {}
    for _, target in ipairs(targets or {}) do
        list[target.row.content] = target
    end
    return list
end

-- Those that concern who was asked for.
local function faults_of(ctx, opts, targets)
    local faults, err = double_fault.find(ctx, opts.batch or 64)
    local mine, named = {}, by_content(targets)
    for _, fault in ipairs(faults or {}) do
        table.insert(mine, (not targets or named[fault.content]) and fault or nil)
    end
    return faults and mine, err
end

-- The pairs whose mirrors are to be recovered, each with its target, if they were named.
local function requests(ctx, faults, targets)
    local named = by_content(targets)
    local found, err = candidates(ctx, faults, function(pair)
        return is_down(pair) and (not targets or named[pair.content] ~= nil)
    end)
    local list = {}
    for i, pair in ipairs(found or {}) do
        list[i] = { pair = pair, target = pair.mirror, wanted = named[pair.content] or {} }
    end
    return found and list, err
end

local function examine(ctx, plan, wanted, opts)
    local examined, failed = by_host.sort_out(wanted, function(request)
        return (request.wanted.to or request.target).hostname
    end, limits_of(opts), function(request)
        if request.wanted.err then
            return nil, request.wanted.err
        end
        local found, err = recovery.examine(ctx, request.pair, request.wanted.to)
        if found then
            found.wanted = request.wanted
        end
        return found, err
    end)
    for _, request in ipairs(failed) do
        table.insert(plan.skipped, request)
    end
    return examined
end

-- Beside what is down: what is behind, and what must not be made equal to its primary. Who names
-- instances asks for nothing else.
local function look_round(ctx, plan, opts, targets)
    plan.behind, plan.skipped, plan.left = {}, {}, {}
    if targets then
        return true
    end
    local err, in_sync
    plan.behind, err = candidates(ctx, plan.double_faults, is_behind)
    if plan.behind then
        in_sync, err = candidates(ctx, plan.double_faults, is_in_sync)
    end
    if in_sync then
        plan.skipped = older_copies(ctx, in_sync, opts.batch or 64)
        plan.left, err = ctx.cat:left_places()
    end
    return in_sync and plan.left and true, err
end

local function share_rates(entries, opts)
    local copies, limits = {}, limits_of(opts)
    for _, entry in ipairs(entries) do
        table.insert(copies, entry.type ~= "start" and entry or nil)
    end
    limits.max_rate, limits.max_rate_host = opts.max_rate, opts.max_rate_host
    rate_shares.share(copies, limits)
end

--- The plan: { entries = Failed[] with type, reason and price, behind = pairs whose mirror is up
--- and not in sync, skipped = {target, err}[], double_faults = DoubleFault[], left = LeftPlace[] }.
---@param ctx table
---@param opts table recoverseg's options
---@param targets? Target[] nil: all that are down, where they are
---@return table? plan
---@return Error? err
function M.make(ctx, opts, targets)
    local faults, err = faults_of(ctx, opts, targets)
    local wanted
    if faults then
        wanted, err = requests(ctx, faults, targets)
    end
    if not wanted then
        return nil, err
    end
    local plan = { entries = {}, double_faults = faults }
    local ok
    ok, err = look_round(ctx, plan, opts, targets)
    if not ok then
        return nil, err
    end
    local examined, rates = examine(ctx, plan, wanted, opts), measured_rates(ctx)
    for _, item in ipairs(choose(ctx, examined, rates, opts)) do
        local entry, skipped = settle(item.failed, item.choice, rates, opts)
        table.insert(entry and plan.entries or plan.skipped, entry or skipped)
    end
    share_rates(plan.entries, opts)
    return plan
end

local function print_survivor(inst, one)
    term.warn("   %s %s", inst.role == "p" and "Primary" or "Mirror ", cluster.name(inst))
    if one.unreadable then
        term.warn("      not readable   %s", one.unreadable)
        return
    end
    term.warn("      timeline       %s", one.timeline or "Unknown")
    term.warn("      last position  %s%s", survivors.position(one),
        one.running and ", it runs" or "")
    term.warn("      in sync        %s, when it was last seen", one.in_sync and "yes" or "no")
    term.warn("      promoting it   loses %s", survivors.loss(one))
end

--- Prints what a double fault has left, and what can be done.
---@param fault DoubleFault
function M.print_double_fault(fault)
    local mirror = fault.survivors[2]
    term.warn("Content %d: primary and mirror are both lost", fault.content)
    print_survivor(fault.pair.primary, fault.survivors[1])
    print_survivor(fault.pair.mirror, mirror)
    term.warn("   moonrise start starts what can be started")
    if not mirror.unreadable and not mirror.refusal then
        term.warn("   moonrise recoverseg --promote %d%s promotes the mirror", mirror.dbid,
            survivors.loses(mirror) and " --accept-loss TEXT" or "")
    end
    term.info("-----------------------------------------------------")
end

local function print_entry(entry)
    term.info("   Recovery of    %s", cluster.name(entry.from or entry.target))
    if entry.from then
        term.info("      to          %s", move.name(entry.target))
        move.warn_of_host(entry.target, entry.source)
    end
    term.info("      from        %s", cluster.name(entry.source))
    term.info("      type        %s (%s)", entry.type, entry.reason)
    if entry.type ~= "start" then
        term.info("      cost        %s to read, about %s", term.bytes(entry.price.read_bytes),
            term.duration(entry.price.seconds * 1000))
        if entry.max_rate and entry.max_rate > 0 then
            term.info("      at most     %s/s", term.bytes(entry.max_rate))
        end
    end
    if entry.foreign_system then
        term.warn("      The directory belongs to another cluster. Everything in it is replaced.")
    end
    if entry.word.patch then
        term.info("      goes on     an unfinished recovery is in the directory")
    end
end

--- Prints a plan.
---@param plan table
function M.print(plan)
    term.info("Recovery plan: %d instance(s)", #plan.entries + #plan.behind)
    term.info("-----------------------------------------------------")
    for _, entry in ipairs(plan.entries) do
        print_entry(entry)
        term.info("-----------------------------------------------------")
    end
    for _, pair in ipairs(plan.behind) do
        term.info("   Up, not in sync  %s: nothing is copied", cluster.name(pair.mirror))
        term.info("-----------------------------------------------------")
    end
    for _, place in ipairs(plan.left) do
        term.info("   Left since %s by dbid %d: %s", place.since, place.dbid, move.name(place))
        term.info("      it is sealed, and removed when content %d is in sync", place.content)
        term.info("-----------------------------------------------------")
    end
end

return M
