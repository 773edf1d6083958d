--- How far a copy is, in one line.
local cluster = require("lib.cluster")
local mr = require("moonrise")
local term = require("lib.term")

--- What a report of the agent's `recover` says, with the rate and the time that is left.
---@param target table the instance that is copied to
---@param began number mr.clock() when it began
---@param report {stage: string?, bytes_done: number?, bytes_total: number?}
---@return string
return function(target, began, report)
    local name = cluster.name(target)
    local done, total = report.bytes_done or 0, report.bytes_total or 0
    if total == 0 then
        return ("%s: %s"):format(name, report.stage or "begins")
    end
    local rate = done / math.max((mr.clock() - began) / 1000, 0.001)
    local left = rate > 0 and (total - done) / rate or 0
    return ("%s: %s %s of %s (%d%%), %s/s, %s left"):format(name, report.stage, term.bytes(done),
        term.bytes(total), math.floor(100 * done / total), term.bytes(rate),
        term.duration(left * 1000))
end
