-- How failed instances are brought back: a type for each, and the order they are worked through in.
-- The contract (facts, answers, budgets) is policies/README.md.

-- An instance that needs nothing but a start gets just that. Else the blocks that differ are
-- copied: a differential recovery needs no more of the target than that it is of the same system.
-- Full is for directories with nothing in them to keep.
local LADDER = { "start", "differential", "full" }

local REASONS = {
    start = "it only needs a start",
    differential = "only the blocks that differ are copied",
    full = "there is nothing to start from",
}

local function choose(instance)
    for _, kind in ipairs(LADDER) do
        if instance.possible[kind] then
            return { dbid = instance.dbid, type = kind, reason = REASONS[kind] }
        end
    end
end

local function seconds(instance, kind)
    local price = instance.prices and instance.prices[kind]
    return price and price.seconds or 0
end

return {
    -- The quickest first: what is back early shortens the time without a mirror for most.
    decide = function(facts)
        local chosen, cost = {}, {}
        for _, instance in ipairs(facts.instances) do
            local entry = choose(instance)
            if entry then
                cost[entry.dbid] = seconds(instance, entry.type)
                table.insert(chosen, entry)
            end
        end
        table.sort(chosen, function(a, b)
            if cost[a.dbid] ~= cost[b.dbid] then
                return cost[a.dbid] < cost[b.dbid]
            end
            return a.dbid < b.dbid
        end)
        return { instances = chosen }
    end,
}
