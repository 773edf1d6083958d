--- What a person does when the coordinator is gone: its standby is activated when the hosts'
--- records allow it (SAFETY.md, rule 8). Read on a majority, then claimed on a majority, both
--- before anything is done.
---
--- The claim bears the very epoch of the record that says the standby is in sync, and says that it
--- is not: so it is newer than that record and older than any release that came in between, and of
--- a release and an activation one finds no majority.
local M = {}

local HOSTS = { "h2", "h3", "h4" }
local MAJORITY = 2

local function newer(a, b)
    return not b or a.epoch > b.epoch or (a.epoch == b.epoch and a.mode == "n" and b.mode == "s")
end

-- The newest record of the coordinator that a majority names, and the highest epoch of all. One
-- that was replaced may go on telling its own host, with epochs of its own: they do not count.
local function read(ctx, mr, hosts_record, hosts)
    local answers = mr.parallel(hosts, #hosts, function(host)
        return hosts_record.read(ctx, host)
    end)
    local named, newest, highest = {}, {}, 0
    for _, record in ipairs(answers) do
        local dbid = record.found and record.coordinator
        if dbid then
            named[dbid] = (named[dbid] or 0) + 1
            highest = math.max(highest, record.epoch, record.catalog_epoch)
            newest[dbid] = newer(record, newest[dbid]) and record or newest[dbid]
        end
    end
    for dbid, count in pairs(named) do
        if count >= math.min(MAJORITY, #hosts) then
            return newest[dbid], highest
        end
    end
    return nil, "no majority of the hosts answers with one coordinator"
end

local function claim(ctx, hosts_record, hosts, newest, pair)
    local old, new = pair.old, pair.new
    local ours = newest.coordinator == new.dbid
    if newest.mode ~= "s" and not ours then
        return nil, "the standby is out"
    elseif not ours and newest.standby ~= new.dbid then
        return nil, "another standby is on record"
    end
    return hosts_record.write_majority(ctx, hosts, { epoch = newest.epoch, mode = "n",
        coordinator = new.dbid, standby = old.dbid, catalog_epoch = newest.catalog_epoch,
        activates = true })
end

-- Where its host answers, the old coordinator is ended and marked.
local function end_old(ctx, old, epoch)
    if not ctx.agents:inspect(old) then
        return true
    end
    local fenced, err = ctx.agents:order(old, "fence", { epoch = epoch }, { timeout_ms = 15000 })
    if not fenced then
        return nil, err
    end
    return ctx.agents:order(old, "mark", { epoch = epoch + 1 }, { timeout_ms = 15000 })
end

local function promote(ctx, new, epoch)
    local word, err = ctx.agents:inspect(new)
    if word and word.stopped then
        word, err = ctx.agents:order(new, "start", { epoch = epoch }, { timeout_ms = 30000 })
    end
    if not word then
        return nil, err
    end
    return ctx.agents:order(new, "promote", { epoch = epoch + 1, flush_lsn = "0/0" },
        { timeout_ms = 30000 })
end

--- Has the standby coordinator activated, as a runbook.
---@param world table tests/sim/coordinator.lua's
---@return fun(load: function, ctx: table, mr: table): any, any
function M.runbook(world)
    return function(load, ctx, mr)
        local hosts_record = load("lib.hosts_record")
        local old, new = world.catalog:instance("p"), world.catalog:instance("m")
        local hosts = world.rules.majority_read and HOSTS or { new.hostname }
        local newest, highest = read(ctx, mr, hosts_record, hosts)
        if not newest then
            return nil, highest
        end
        local ok, err = claim(ctx, hosts_record, hosts, newest, { old = old, new = new })
        local word = ok and ctx.agents:inspect(new)
        local epoch = word and math.max(highest, word.epoch.epoch) + 1
        if epoch then
            ok, err = end_old(ctx, old, epoch)
        end
        if epoch and ok then
            ok, err = promote(ctx, new, epoch + 2)
        end
        if not epoch or not ok then
            return nil, err
        end
        return true
    end
end

return M
