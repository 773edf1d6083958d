--- How the copies of one run share what they may read: --max-rate for all of them together,
--- --max-rate-host for those that have one host in common. Pure.
local M = {}

-- How many of these copies are under way at once.
local function at_once(counts, batch)
    local sum = 0
    for _, count in pairs(counts) do
        sum = sum + math.min(count, batch)
    end
    return sum
end

-- Copies by the host of their target, which is what limits how many run at once.
local function by_target(copies, involves)
    local counts = {}
    for _, copy in ipairs(copies) do
        if involves(copy) then
            local host = copy.target.hostname
            counts[host] = (counts[host] or 0) + 1
        end
    end
    return counts
end

-- The most copies that run at once: of -B hosts those that have most.
local function most_at_once(copies, limits)
    local list = {}
    for _, count in pairs(by_target(copies, function() return true end)) do
        table.insert(list, math.min(count, limits.batch))
    end
    table.sort(list, function(a, b) return a > b end)
    local sum = 0
    for i = 1, math.min(#list, limits.hosts) do
        sum = sum + list[i]
    end
    return sum
end

local function least(a, b)
    return a and b and math.min(a, b) or a or b
end

local function share(rate, count)
    return rate and math.max(1, math.floor(rate / math.max(count, 1)))
end

local function host_share(copies, host, opts)
    return share(opts.max_rate_host, at_once(by_target(copies, function(copy)
        return copy.target.hostname == host or copy.source.hostname == host
    end), opts.batch))
end

--- Sets each copy's max_rate: the least of what it has (the policy's), of its share of the run's
--- and of its shares of its two hosts'. Shares are equal and are not changed while the run goes on,
--- so that together they never exceed what was asked for.
---@param copies {source: {hostname: string}, target: {hostname: string}, max_rate: number?}[]
---@param opts {max_rate: number?, max_rate_host: number?, hosts: integer, batch: integer}
function M.share(copies, opts)
    local of_all = share(opts.max_rate, most_at_once(copies, opts))
    for _, copy in ipairs(copies) do
        local of_hosts = least(host_share(copies, copy.source.hostname, opts),
            host_share(copies, copy.target.hostname, opts))
        copy.max_rate = least(copy.max_rate, least(of_all, of_hosts))
    end
end

return M
