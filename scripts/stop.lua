--- `moonrise stop`: stops the cluster so that nothing of it looks like a failure.
local agents = require("lib.agents")
local args = require("lib.args")
local bring_down = require("lib.bring_down")
local cluster = require("lib.cluster")
local home = require("lib.home")
local instance = require("lib.instance")
local mr = require("moonrise")
local stop_requests = require("lib.stop_requests")
local term = require("lib.term")

local MODES = { smart = true, fast = true, immediate = true }

local function check(opts)
    if not MODES[opts.mode] then
        return ("-M wants smart, fast or immediate, not '%s'"):format(opts.mode)
    end
    return args.exclusive(opts, { { "reload", "-u" }, { "restart", "-r" } })
        or args.exclusive(opts, { { "reload", "-u" }, { "mode", "-M" } })
        or args.exclusive(opts, { { "coordinator_only", "-m" }, { "restart", "-r" } })
        or args.exclusive(opts, { { "coordinator_only", "-m" }, { "no_standby", "-y" } })
end

local function reload_one(env, inst)
    local conn, err = mr.connect(instance.conninfo(env, inst, { connect_timeout_ms = 5000 }))
    if not conn then
        return nil, err
    end
    local rows
    rows, err = conn:query("select pg_reload_conf()")
    conn:close()
    return rows, err
end

-- Instances that are down read their files when they start.
local function reload(ctx, opts)
    local instances, err = ctx.cat:instances()
    if not instances then
        return nil, err
    end
    local up, failures = {}, 0
    for _, inst in ipairs(instances) do
        if inst.status == "u" then
            table.insert(up, inst)
        end
    end
    local results = mr.parallel(up, opts.batch, function(inst)
        return reload_one(ctx.env, inst)
    end)
    for i, inst in ipairs(up) do
        if results[i].error then
            failures = failures + 1
            term.error(results[i].error)
            term.warn("%s: not reloaded", cluster.name(inst))
        end
    end
    term.info("%d instances have read their configuration files again", #up - failures)
    return failures == 0 and 0 or 1
end

local function report(results, opts)
    local failures, list = 0, {}
    for _, r in ipairs(results) do
        if r.outcome == "failed" then
            failures = failures + 1
            term.error(r.err)
            term.warn("%s: not stopped", cluster.name(r.inst))
        else
            term.info("%s: %s", cluster.name(r.inst), r.outcome == "already" and "was stopped"
                or "stopped")
        end
        table.insert(list, { dbid = r.inst.dbid, content = r.inst.content, outcome = r.outcome,
                             error = r.err and tostring(r.err) })
    end
    if opts.json then
        term.json({ instances = list })
    end
    return failures
end

local function plan(env, opts)
    local what = opts.coordinator_only and "the coordinator of" or "all instances of"
    term.info("Stop %s the cluster %s, coordinator %s, mode %s%s", what, env.name, env.datadir
        or env.host,
        opts.mode, opts.restart and ", then start it again" or "")
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
                      wait_ms = opts.timeout, no_standby = opts.no_standby }
    if not ctx.cat then
        local results, err = bring_down.go_on(ctx, options)
        if not results and catalog_err and err.code == "notfound" then
            term.debug("%s", tostring(catalog_err))
        end
        return results, err
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
    local options = { given = {} }
    for key, value in pairs(opts) do
        options[key] = value
    end
    options.yes = true
    return book.main(options, {})
end

local function main(opts)
    local env, err = home.find(opts)
    if not env then
        return nil, err
    end
    plan(env, opts)
    if opts.dry_run then
        return 0
    end
    local what = opts.reload and "the reload" or "the stop"
    local go, code = term.confirm("Continue with " .. what .. " of the cluster", opts.yes)
    if not go then
        return code
    end
    local ctx = { env = env, agents = agents.new(env) }
    local results = { pcall(stop_requests.guard, "Leave the rest running", function()
        return run(ctx, opts)
    end) }
    if ctx.cat and ctx.cat:is_open() then
        ctx.cat:close()
    end
    ctx.agents:close()
    if not results[1] then
        error(results[2], 0)
    elseif results[2] == 0 and opts.restart then
        return start_again(opts)
    end
    return results[2], results[3]
end

return {
    summary = "stop the cluster",
    usage = "[-M smart|fast|immediate] [-t SECONDS] [-m] [-r] [-u] [-y] [options]",
    description = [[
Stops the coordinator, so that clients are gone, then the primaries while their mirrors still
receive, then the mirrors. The watcher is told that this is no failure. A stop that was interrupted
is picked up by the next one.]],
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
    },
    check = check,
    main = main,
}
