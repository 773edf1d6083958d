-- A recovery policy: small instances first, and big ones not faster than 50 MB/s, so that the users
-- of the primaries they are copied from notice little.

local BIG = 100 * 2 ^ 30
local SLOW = 50 * 2 ^ 20

return {
    decide = function(facts)
        local chosen, size = {}, {}
        for _, instance in ipairs(facts.instances) do
            local possible = instance.possible
            local kind = (possible.start and "start") or (possible.differential and "differential")
                or (possible.full and "full")
            if kind then
                size[instance.dbid] = instance.data_bytes
                table.insert(chosen, {
                    dbid = instance.dbid, type = kind, reason = "small ones first",
                    max_rate = instance.data_bytes > BIG and SLOW or nil,
                })
            end
        end
        table.sort(chosen, function(a, b)
            return size[a.dbid] < size[b.dbid]
        end)
        return { instances = chosen }
    end,
}
