--- `moonrise stop`: stops the cluster so that nothing of it looks like a failure.
local args = require("lib.args")
local bring_down = require("lib.bring_down")
local cluster = require("lib.cluster")
local evacuation = require("lib.evacuation")
local handover_resume = require("lib.handover_resume")
local handover_waves = require("lib.handover_waves")
local merged = require("lib.merged")
local mr = require("moonrise")
local session = require("lib.session")
local term = require("lib.term")
local whole = require("lib.whole")

local RELOAD_MS = 5000
local MODES = { smart = true, fast = true, immediate = true }

local function check(opts)
    if not MODES[opts.mode] then
        return ("-M wants smart, fast or immediate, not '%s'"):format(opts.mode)
    end
    return args.exclusive(opts, { { "reload", "-u" }, { "restart", "-r" } })
        or args.exclusive(opts, { { "reload", "-u" }, { "mode", "-M" } })
        or args.exclusive(opts, { { "reload", "-u" }, { "timeout", "-t" } })
        or args.exclusive(opts, { { "reload", "-u" }, { "coordinator_only", "-m" } })
        or args.exclusive(opts, { { "reload", "-u" }, { "no_standby", "-y" } })
        or args.exclusive(opts, { { "coordinator_only", "-m" }, { "restart", "-r" } })
        or args.exclusive(opts, { { "coordinator_only", "-m" }, { "no_standby", "-y" } })
        or args.exclusive(opts, { { "host", "--host" }, { "coordinator_only", "-m" } })
        or args.exclusive(opts, { { "host", "--host" }, { "reload", "-u" } })
        or args.exclusive(opts, { { "host", "--host" }, { "restart", "-r" } })
        or args.exclusive(opts, { { "host", "--host" }, { "no_standby", "-y" } })
end

-- Instances that are down read their files when they start.
local function reload(ctx, opts)
    local instances, err = ctx.cat:instances()
    if not instances then
        return nil, err
    end
    local up, list, failures = {}, {}, 0
    for _, inst in ipairs(instances) do
        if inst.status == "u" then
            table.insert(up, inst)
        end
    end
    local results = mr.parallel(up, opts.batch, function(inst)
        return ctx.agents:reload(inst, { timeout_ms = RELOAD_MS })
    end)
    for i, inst in ipairs(up) do
        if results[i].error then
            failures = failures + 1
            term.error(results[i].error)
            term.warn("%s: not reloaded", cluster.name(inst))
        end
        list[i] = { dbid = inst.dbid, content = inst.content,
            outcome = results[i].error and "failed" or "reloaded",
            error = results[i].error and tostring(results[i].error) }
    end
    if opts.json then
        term.json({ instances = mr.json_array(list) })
    end
    term.info("%d instances have read their configuration files again", #up - failures)
    return failures == 0 and 0 or 1
end

-- Says what became of each; with --json also, beside that, what is in `more`.
local function report(results, opts, more)
    local failures, list, told = 0, {}, more or {}
    for _, r in ipairs(results) do
        if r.outcome == "failed" then
            failures = failures + 1
            term.error(r.err)
            term.warn("%s: not stopped", cluster.name(r.inst))
        else
            term.info("%s: %s", cluster.name(r.inst), r.outcome == "already" and "was stopped"
                or r.killed and "killed: it did not stop by itself" or "stopped")
        end
        table.insert(list, { dbid = r.inst.dbid, content = r.inst.content, outcome = r.outcome,
                             killed = r.killed or nil, error = r.err and tostring(r.err) })
    end
    if opts.json then
        told.instances = mr.json_array(list)
        term.json(told)
    end
    return failures
end

local function plan(env, opts)
    if opts.reload then
        term.info("Read the configuration files of all instances of the cluster %s again", env.name)
        return
    end
    local what = opts.coordinator_only and "the coordinator of" or "all instances of"
    term.info("Stop %s the cluster %s, coordinator %s, mode %s%s", what, env.name,
        env.datadir or env.host, opts.mode, opts.restart and ", then start it again" or "")
end

-- A smart stop does not interrupt anybody; who is let in would keep a server from stopping for
-- ever.
local function clients_are_gone(ctx, opts)
    if opts.mode ~= "smart" then
        return true
    end
    local count, err = bring_down.clients(ctx)
    if not count then
        return nil, err
    elseif count > 0 then
        return nil, mr.error("busy",
            ("%d sessions of clients are open on the coordinator"):format(count),
            { hint = "end them, or stop with -M fast" })
    end
    return true
end

local function stop(ctx, opts, catalog_err)
    local options = { mode = opts.mode == "smart" and "fast" or opts.mode, batch = opts.batch,
                      wait_ms = opts.timeout, no_standby = opts.no_standby,
                      coordinator_only = opts.coordinator_only }
    if not ctx.cat then
        return bring_down.go_on(ctx, options, catalog_err)
    end
    local ok, err = clients_are_gone(ctx, opts)
    if not ok then
        return nil, err
    elseif opts.coordinator_only then
        return bring_down.coordinator_only(ctx, options)
    end
    return bring_down.all(ctx, options)
end

local function run(ctx, opts)
    local _, catalog_err = bring_down.open(ctx)
    if opts.reload then
        if not ctx.cat then
            return nil, catalog_err
        end
        return reload(ctx, opts)
    end
    local results, err = stop(ctx, opts, catalog_err)
    if not results then
        return nil, err
    end
    if report(results, opts) > 0 then
        return 1
    end
    term.info("%s of the cluster %s is stopped", opts.coordinator_only and "The coordinator"
        or "All",
        ctx.env.name)
    return 0
end

local function start_again(opts)
    local book = dofile(mr.scripts_dir .. "/start.lua")
    return book.main(merged(opts, { yes = true }), {})
end

local function refuse_evacuation(work, opts)
    local reasons = {}
    for i, err in ipairs(work.refused) do
        term.error(err)
        reasons[i] = tostring(err)
    end
    term.warn("Nothing was stopped: host %s is not taken out of service", work.host)
    if opts.json then
        term.json({ instances = mr.json_array(), handed_over = mr.json_array(),
                    refused = reasons })
    end
    return 1
end

local function evacuate(ctx, opts)
    -- What an earlier run has left half-way comes first.
    local unfinished = opts.dry_run and 0 or handover_resume.all(ctx)
    local work, err = evacuation.plan(ctx, opts.host)
    if not work then
        return nil, err
    elseif #work.refused > 0 then
        return refuse_evacuation(work, opts)
    end
    evacuation.print(work)
    local results, handed = {}, {}
    if not opts.dry_run then
        local go, code = term.confirm("Continue with the stop of host " .. opts.host, opts.yes)
        if not go then
            return code
        end
        results = evacuation.run(ctx, work, { mode = opts.mode == "smart" and "fast" or opts.mode,
            wait_ms = opts.timeout, batch = opts.batch })
        for i, pair in ipairs(work.handovers) do
            handed[i] = handover_waves.as_json(pair, 1)
        end
    end
    local told = { handed_over = mr.json_array(handed), refused = mr.json_array() }
    if report(results, opts, told) + unfinished > 0 then
        return 1
    elseif not opts.dry_run then
        term.info("Host %s is out of service; moonrise recoverseg brings its instances back",
            opts.host)
    end
    return 0
end

local function main(opts)
    if opts.host then
        return session.with(opts, function(ctx)
            return evacuate(ctx, opts)
        end)
    end
    -- A reload ends nothing, and gpstop -u asks nobody.
    local code, err = whole.run(merged(opts, { yes = opts.yes or opts.reload }), {
        plan = plan, act = run, question = "Continue with the stop of the cluster",
        stop_question = "Leave the rest running",
    })
    if code == 0 and opts.restart and not opts.dry_run then
        return start_again(opts)
    end
    return code, err
end

return {
    summary = "stop the cluster",
    usage = "[-M smart|fast|immediate] [-t SECONDS] [-m] [-r] [-u] [-y] [--host H] [options]",
    description = [[
Stops the coordinator, so that clients are gone, then the primaries while their mirrors still
receive, then the mirrors. The watcher is told that this is no failure. A stop that was interrupted
is picked up by the next one.

With --host only what is on that host is stopped, and the cluster goes on: primaries there are
handed over to their mirrors elsewhere, without a copy or a loss; mirrors there, the standby
coordinator too, are recorded as down and their primaries go on without them. It is refused as a
whole, and each reason named, when the coordinator is there, or a pair that cannot be handed over:
not in sync, without a mirror elsewhere. recoverseg, or start, brings the instances back and
recoverseg -r their roles. Killed half-way it is simply run again.]],
    options = {
        { key = "mode", short = "M", arg = "MODE", default = "smart",
          help = "smart: only when no client is connected; fast: ends their\n" ..
              "sessions; immediate: without a checkpoint" },
        { key = "timeout", short = "t", arg = "SECONDS", kind = "duration", min = 1000,
          max = 600000, default = 120000, help = "how long each instance may take (default 120)" },
        { key = "coordinator_only", short = "m", help = "stop the coordinator only" },
        { key = "restart", short = "r", help = "start the cluster again afterwards" },
        { key = "reload", short = "u", help = "stop nothing, read the configuration files again" },
        { key = "no_standby", short = "y", help = "leave the standby coordinator running" },
        { key = "host", long = "host", arg = "H",
          help = "take host H out of service: mirrors elsewhere take over\n" ..
              "first; smart means fast here" },
    },
    check = check,
    main = main,
}
