--- `moonrise demo`: the whole story on this machine, with real servers and a ledger of every row.
local mr = require("moonrise")
local demo = require("lib.demo")
local demo_clean = require("lib.demo_clean")
local term = require("lib.term")

local SEGMENTS = 3
local SESSIONS = 6

local function step(text)
    term.line("")
    term.line("== " .. text)
end

-- As it was started: by make, or by hand.
local function removal(dir)
    if mr.getenv("MAKELEVEL") then
        return "make demo-clean"
    end
    local place = dir ~= demo.default_dir() and " --dir " .. dir or ""
    return mr.executable .. " demo --clean" .. place
end

local function fail(err, dir)
    term.error(err.code == "cancelled" and "interrupted" or err)
    if dir and err.code ~= "exists" then
        term.error(("  %s is left as it is, with logs in log/; %s removes it")
            :format(dir, removal(dir)))
    end
    return 1
end

local function tell_failover(story)
    local rows = {}
    for _, event in ipairs(story) do
        table.insert(rows, { ("%+.0f ms"):format(event.ms), event.what })
    end
    for _, line in ipairs(term.table({ "after the kill", "what happened" }, rows)) do
        term.line("   " .. line)
    end
end

local function make(opts)
    step(("A cluster: coordinator, standby and %d mirrored segments in %s")
        :format(SEGMENTS, opts.dir))
    local world, err = demo.create(opts.dir, SEGMENTS)
    if not world then
        return nil, err
    end
    step("A table sharded over the segments through postgres_fdw, and writers on the coordinator")
    local ok
    ok, err = demo.shard(world)
    if not ok then
        return nil, err
    end
    demo.write(world, SESSIONS)
    ok, err = demo.wait_rows(world, 500)
    return ok and world, err
end

local function fail_and_return(world)
    step("kill -9 of a primary's postmaster")
    local story, err = demo.fail_over(world, 1)
    if not story then
        return nil, err
    end
    tell_failover(story)
    for _, args in ipairs({ { "recoverseg", "-a" }, { "recoverseg", "-r", "-a" } }) do
        step("moonrise " .. table.concat(args, " "))
        local ok
        ok, err = demo.command(world, args)
        if ok then
            ok, err = demo.wait_in_sync(world)
        end
        if not ok then
            return nil, err
        end
    end
    step("moonrise state -e")
    return demo.command(world, { "state", "-e" })
end

local function prove(world)
    step("The ledger of the writers against the tables")
    local result, err = demo.compare(world)
    if not result then
        return nil, err
    end
    term.line(("   %d refused, %d unknown (the connection broke between COMMIT and its answer)")
        :format(result.refused, result.unknown))
    term.line(("%d rows acknowledged, %d missing"):format(result.acknowledged, #result.missing))
    if not result.sound then
        return nil, mr.error("io", ("%d rows refused but present, %d twice, %d nobody wrote")
            :format(#result.ghosts, #result.twice, #result.strangers))
    end
    return true
end

local function epilogue(world)
    term.line("")
    term.line("The cluster and its watcher are left running. Try next:")
    local me = mr.getenv("MOONRISE_COMMAND") or mr.executable
    term.line(("   %s state -d %s"):format(me, world.coordinator.datadir))
    term.line(("   %s history -d %s"):format(me, world.coordinator.datadir))
    term.line(("   %s     removes it"):format(removal(world.dir)))
end

local function main(opts)
    opts.dir = opts.dir or demo.default_dir()
    if opts.clean and not opts.dry_run then
        local ok, err = demo_clean.remove(opts.dir)
        return ok and 0 or fail(err)
    end
    if opts.dry_run then
        term.line(("Would %s a cluster of %d servers in %s"):format(
            opts.clean and "stop and remove" or "make", 2 + 2 * SEGMENTS, opts.dir))
        return 0
    end
    local world, err = make(opts)
    if not world then
        return fail(err, opts.dir)
    end
    local ok, proven, prove_err
    ok, err = fail_and_return(world)
    if ok or err.code ~= "cancelled" then
        proven, prove_err = prove(world)
    end
    demo.close(world)
    if not ok or not proven then
        return fail(not ok and err or prove_err, opts.dir)
    end
    epilogue(world)
    return 0
end

return {
    summary = "a cluster on this machine that fails over and comes back",
    usage = "[--dir DIR] [--clean]",
    description = [[
Makes a cluster of real PostgreSQL servers in a folder of its own, writes to it through the
coordinator all the while, kills a primary, shows the failover, recovers, rebalances, and proves
that no acknowledged row is missing. The cluster is left running; --clean removes it.]],
    options = {
        { key = "dir", long = "dir", arg = "DIR",
            help = "the folder (default /tmp/moonrise-demo-UID)" },
        { key = "clean", long = "clean", help = "stop and remove the demo's cluster" },
    },
    -- The commands that it runs keep their logs in its folder.
    log = false,
    main = main,
}
