--- `make bench`: moonrise against the tool a user would take instead, in alternation, on the same
--- data. Prints a table and appends one JSON line for each benchmark to build/bench.jsonl
--- (medians).
local mr = require("moonrise")

local here = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$") or "."
package.path = here .. "/?.lua;" .. package.path

local cluster = require("cluster")
local copies = require("copies")
local receivewal = require("receivewal")
local far = require("far")

local benches = {
    { "failover", cluster.failover },
    { "failover_hung", cluster.failover_hung },
    { "mirror_loss", cluster.mirror_loss },
    { "rebalance", cluster.rebalance },
    { "watcher", cluster.watcher },
    { "differential_local", copies.differential_local },
    { "identical_local", copies.identical_local },
    { "cold_local", copies.cold_local },
    { "full_local", copies.full_local },
    { "receivewal", receivewal.receivewal },
    { "differential_ssh", far.differential_ssh },
    { "identical_ssh", far.identical_ssh },
    { "full_ssh", far.full_ssh },
    { "full_ssh_basebackup", far.full_ssh_basebackup },
    { "slow_link", far.slow_link },
    { "resume_full", far.resume_full },
}

local function line(name, result)
    local against = ""
    if result.theirs then
        against = ("%s %.2f %s, %.1f times"):format(result.peer, result.theirs, result.unit,
            result.theirs / result.ours)
    elseif result.goal then
        against = ("at most %.1f %s"):format(result.goal, result.unit)
    end
    return ("%-20s %2d runs   moonrise %.2f %s   %s\n"):format(name, result.runs, result.ours,
        result.unit, against)
end

return {
    summary = "benchmarks",
    usage = "[NAME ...]",
    arguments = #benches,
    main = function(_, names)
        local wanted = {}
        for _, name in ipairs(names) do
            wanted[name] = true
        end
        for _, bench in ipairs(benches) do
            local name, run = bench[1], bench[2]
            if #names == 0 or wanted[name] then
                local result = run()
                result.name = name
                result.ratio = result.theirs and result.theirs / result.ours or nil
                mr.out(line(name, result))
                mr.check(mr.append_file(mr.getenv("MOONRISE_BENCH_RESULTS") or "build/bench.jsonl",
                    mr.json_encode(result)))
            end
        end
        return 0
    end,
}
