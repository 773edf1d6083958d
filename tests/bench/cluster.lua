--- Benchmarks of a whole cluster under load: the stalls that writers see. What is measured are gaps
--- between acknowledged rows of the segment concerned, written through the coordinator by the
--- demo's writers.
local mr = require("moonrise")
local demo = require("lib.demo")
local demo_clean = require("lib.demo_clean")
local home = require("lib.home")
local measure = require("measure")

local M = {}

local SEGMENTS = 3
local SESSIONS = 4
local RUNS = 7
local HUNG_RUNS = 4
local WATCHED_MS = 30000
local median = measure.median

-- Without a load nobody writes, and there is no ledger to compare.
local function with_cluster(fn, idle)
    local dir = measure.directory()
    local world = mr.check(demo.create(dir, SEGMENTS, function() end))
    mr.check(demo.shard(world))
    if not idle then
        demo.write(world, SESSIONS)
        mr.check(demo.wait_rows(world, 300))
    end
    local results = { pcall(fn, world) }
    local proof = idle and { sound = true } or demo.compare(world)
    demo.close(world)
    mr.check(demo_clean.remove(dir, function() end))
    if not results[1] then
        error(results[2], 0)
    elseif not proof or not proof.sound then
        error("the ledger does not match the tables", 0)
    end
    return unpack(results, 2)
end

-- The longest gap between acknowledged rows of a segment that touches [from, until].
local function longest_gap(world, content, from, to)
    local times, longest = mr.check(demo.acks_of(world, content)), 0
    for i = 2, #times do
        if times[i] >= from and times[i - 1] <= to then
            longest = math.max(longest, times[i] - times[i - 1])
        end
    end
    return longest
end

local function recover(world)
    mr.check(demo.command(world, { "recoverseg", "-a" }))
    mr.check(demo.wait_in_sync(world))
end

local function instance_of(world, content, role)
    for _, inst in ipairs(mr.check(world.session.cat:instances())) do
        if inst.content == content and inst.role == role then
            return inst
        end
    end
end

--- kill -9 of a primary's postmaster to the first row acknowledged by its successor.
---@return table result
function M.failover()
    return with_cluster(function(world)
        local times = {}
        for run = 1, RUNS do
            local story = mr.check(demo.fail_over(world, run % SEGMENTS))
            table.insert(times, story.first_ms / 1000)
            recover(world)
        end
        return { runs = RUNS, ours = median(times), all = times, unit = "s", goal = 1.0 }
    end)
end

-- Stops the postmaster alone, whose sessions go on, or the whole server; the seconds to the first
-- row that its successor acknowledges. The old one is ended before the roles change, so whatever is
-- acknowledged from then on comes from the new one.
local function hang(world, content, whole)
    local word = mr.check(world.session.agents:inspect(instance_of(world, content, "p")))
    local from = mr.clock()
    mr.check(mr.kill(word.postmaster.pid, "STOP"))
    for _, process in ipairs(whole and word.processes or {}) do
        mr.kill(process.pid, "STOP")
    end
    mr.check(demo.wait_status(world, content, "d"))
    local changed = mr.clock()
    mr.check(demo.wait_rows(world, 300))
    for _, at in ipairs(mr.check(demo.acks_of(world, content))) do
        if at > changed then
            return (at - from) / 1000
        end
    end
    error("no row was acknowledged by the new primary", 0)
end

--- SIGSTOP of a primary, of its postmaster and of all of it by turns, to the first row acknowledged
--- by its successor.
---@return table result
function M.failover_hung()
    return with_cluster(function(world)
        local times = {}
        for run = 1, HUNG_RUNS do
            table.insert(times, hang(world, run % SEGMENTS, run % 2 == 0))
            recover(world)
        end
        return { runs = HUNG_RUNS, ours = median(times), all = times, unit = "s", goal = 12.0 }
    end)
end

--- kill -9 of a mirror's postmaster: how long writers of its segment stall.
---@return table result
function M.mirror_loss()
    return with_cluster(function(world)
        local times = {}
        for run = 1, RUNS do
            local content = run % SEGMENTS
            local word = mr.check(world.session.agents:inspect(instance_of(world, content, "m")))
            local from = mr.clock()
            mr.check(mr.kill(word.postmaster.pid, "KILL"))
            mr.check(demo.wait_status(world, content, "d"))
            mr.check(demo.wait_rows(world, 300))
            table.insert(times, longest_gap(world, content, from, mr.clock()) / 1000)
            recover(world)
        end
        return { runs = RUNS, ours = median(times), all = times, unit = "s", goal = 2.0 }
    end)
end

--- Handing a pair back: how long its writers stall.
---@return table result
function M.rebalance()
    return with_cluster(function(world)
        local times = {}
        for run = 1, 3 do
            local content = run % SEGMENTS
            mr.check(demo.fail_over(world, content))
            recover(world)
            local from = mr.clock()
            mr.check(demo.command(world, { "recoverseg", "-r", "-a" }))
            mr.check(demo.wait_in_sync(world))
            mr.check(demo.wait_rows(world, 300))
            table.insert(times, longest_gap(world, content, from, mr.clock()) / 1000)
        end
        return { runs = 3, ours = median(times), all = times, unit = "s", goal = 2.0 }
    end)
end

-- The processor time of a process so far, all its threads, in seconds (proc(5), stat: utime and
-- stime, in hundredths).
local function processor_s(pid)
    local stat = mr.check(mr.read_file(("/proc/%d/stat"):format(pid)))
    local fields = {}
    for field in stat:match("%) (.*)$"):gmatch("%S+") do
        fields[#fields + 1] = tonumber(field) or field
    end
    return (fields[12] + fields[13]) / 100
end

--- What the watcher of eight healthy instances, and its agent, take of one core.
---@return table result
function M.watcher()
    return with_cluster(function(world)
        local file = home.state_dir(world.session.env.name) .. "/watch.pid"
        local pid = tonumber((mr.check(mr.read_file(file)):match("%d+")))
        local pids = { pid }
        for child in mr.check(mr.read_file(("/proc/%d/task/%d/children"):format(pid, pid)))
            :gmatch("%d+") do
            pids[#pids + 1] = tonumber(child)
        end
        local function all()
            local sum = 0
            for _, each in ipairs(pids) do
                sum = sum + processor_s(each)
            end
            return sum
        end
        local shares = {}
        for run = 1, 3 do
            local began, from = all(), mr.clock()
            mr.sleep(WATCHED_MS)
            shares[run] = 100 * (all() - began) / ((mr.clock() - from) / 1000)
        end
        return { runs = 3, ours = median(shares), all = shares, unit = "% of a core", goal = 1.0 }
    end, true)
end

return M
