--- moonrise watch: failure detection, failover, and everything that brings a pair back in sync.
local hold = require("lib.hold")
local home = require("lib.home")
local mr = require("moonrise")
local policy = require("lib.policy")
local term = require("lib.term")
local watcher = require("lib.watcher")

local ONCE_MS = 30000
local STOP_MS = 15000

local options = {
    { key = "daemon", long = "daemon", help = "go on in the background" },
    { key = "once", long = "once",
        help = "one cycle (as gp_request_fts_probe_scan), of the watcher that is there if any" },
    { key = "stop", long = "stop",
        help = "end the watcher that runs in the background on this host" },
    { key = "interval", long = "interval", arg = "TIME", kind = "duration", min = 50,
      help = "time between two probes of an instance (default 1s)" },
    { key = "timeout", long = "timeout", arg = "TIME", kind = "duration", min = 50,
      help = "an answer that takes longer is silence (default 2s)" },
    { key = "patience", long = "patience", arg = "TIME", kind = "duration", min = 100,
      help = "how long a primary may be silent (default 10s)" },
    { key = "grace", long = "grace", arg = "TIME", kind = "duration", min = 100,
      help = "how long a mirror may be away without a word of its host (default 30s)" },
    { key = "policy", long = "policy", arg = "failover=FILE", repeatable = true,
      help = "a policy of your own instead of the packaged one" },
}

local description = [[
The watcher probes every instance. When a primary is lost, its mirror is promoted if nothing is lost
by it; when a mirror is lost, its primary is released; when it streams again, the pair is brought in
sync. A second watcher waits until the first one's lease is free. What was seen, decided and done is
in the journal: moonrise history.]]

local function check(given)
    if given.dry_run then
        return "--dry-run: a watcher has no plan; moonrise state -e shows what is wrong"
    elseif given.json then
        return "--json: a watcher has no result; moonrise history --json tells what it did"
    elseif given.once and given.daemon then
        return "--once and --daemon cannot be combined"
    elseif given.stop and (given.once or given.daemon) then
        return "--stop cannot be combined with --once or --daemon"
    end
    local _, problem = policy.parse(given.policy, "failover")
    return problem
end

local function settings(given)
    return {
        interval_ms = given.interval, timeout_ms = given.timeout,
        policy_files = policy.parse(given.policy),
        settings = { patience_ms = given.patience, grace_ms = given.grace },
    }
end

local function files(env)
    local dir = home.state_dir(env.name)
    return { dir = dir, lock = dir .. "/watch.lock", pid = dir .. "/watch.pid",
        log = dir .. "/watch.log" }
end

local function running(file)
    local lock, err = mr.lock_file(file.lock)
    if lock then
        lock:close()
        return false
    end
    return err.code == "busy"
end

-- It takes the lock first, and writes its process id when it is on its own.
local function pid_of(file, deadline)
    local pid
    repeat
        pid = tonumber((mr.read_file(file.pid) or ""):match("%d+"))
    until pid or mr.clock() > deadline or not running(file) or not mr.sleep(20)
    return pid
end

-- The lock says whether it runs, the file only which process it is.
local function stop(file)
    if not running(file) then
        term.info("no watcher runs in the background on this host")
        return 0
    end
    local deadline = mr.clock() + STOP_MS
    local pid = pid_of(file, deadline)
    if not pid then
        return nil, mr.error("notfound", file.pid .. " does not name the watcher's process")
    end
    local ok, err = mr.kill(pid, "TERM")
    if not ok then
        return nil, err
    end
    while running(file) or not hold.process_gone(pid) do
        if mr.clock() > deadline then
            return nil, mr.error("timeout", ("the watcher (process %d) has not ended"):format(pid),
                { hint = ("one that hangs is ended by kill -KILL %d; it leaves nothing half done")
                    :format(pid) })
        end
        mr.sleep(20)
    end
    term.info("the watcher (process %d) has ended", pid)
    return 0
end

-- The lock is taken while there is somebody yet to be told that it is not to be had; the background
-- process inherits it.
local function background(file)
    local lock, err = mr.lock_file(file.lock)
    if not lock and err.code == "busy" then
        return nil, mr.error("busy", "a watcher runs in the background on this host already",
            { hint = "moonrise watch --stop" })
    elseif not lock then
        return nil, err
    end
    mr.remove_file(file.pid)
    term.info("the watcher goes on in the background, its log is %s", file.log)
    local ok
    ok, err = mr.daemonize(file.log)
    if not ok then
        return nil, err
    end
    ok, err = mr.write_file(file.pid, mr.whoami().pid .. "\n")
    return ok and lock, err
end

local function main(given)
    local env, err = home.find(given)
    if not env then
        return nil, err
    elseif not env.name then
        return nil, mr.error("usage", "the watcher needs the coordinator's data directory (-d)")
    end
    local file = files(env)
    local ok
    ok, err = mr.make_dir(file.dir)
    if not ok then
        return nil, err
    elseif given.stop then
        return stop(file)
    end
    local lock
    if given.daemon then
        lock, err = background(file)
        if not lock then
            return nil, err
        end
    end
    local watch = watcher.new(env, settings(given))
    if given.once then
        local done, why = watch:run_once(ONCE_MS)
        return done and 0 or nil, not done and mr.error("failed", why) or nil
    end
    local code = watch:run()
    if lock then
        mr.remove_file(file.pid)
        lock:close()
    end
    return code
end

return {
    summary = "detects failures, fails over, keeps pairs in sync",
    usage = "[--daemon | --once | --stop] [options]",
    description = description,
    options = options,
    check = check,
    main = main,
}
