--- `moonrise init`: makes a cluster from its description.
local cluster = require("lib.cluster")
local config = require("lib.config")
local create = require("lib.create")
local create_plan = require("lib.create_plan")
local home = require("lib.home")
local mr = require("moonrise")
local stop_requests = require("lib.stop_requests")
local term = require("lib.term")

local function check(_, rest)
    return not rest[1] and "which cluster? The file that describes it is missing" or nil
end

local function report_all(problems)
    for _, problem in ipairs(problems) do
        term.error(problem)
    end
    return 1
end

local function copy_line(inst, report)
    local done, total = report.bytes_done or 0, report.bytes_total or 0
    return ("dbid %d (content %d): %s"):format(inst.dbid, inst.content, total == 0
        and "waiting for a checkpoint"
        or ("%s %s of %s"):format(report.stage or "", term.bytes(done), term.bytes(total)))
end

local function make(plan, opts)
    local progress = term.progress({ off = opts.no_progress })
    local options = {
        batch = opts.batch,
        stage = function(what)
            term.info("Making %s", what)
        end,
        progress = function(inst, report)
            progress:update(inst.dbid, copy_line(inst, report))
        end,
    }
    local ok, result, err = pcall(stop_requests.guard, "Stop, and remove what was made", function()
        return create.run(plan, options)
    end)
    progress:finish()
    if not ok then
        return nil, result
    end
    return result, err
end

local function undo(plan, err)
    term.error(err)
    term.info("Removing what was made")
    local problems = create.undo(plan)
    if #problems > 0 then
        report_all(problems)
        term.error("Not everything could be removed; run the same init again, or remove it by hand")
    else
        term.info("Everything is as before")
    end
    return 1
end

local function tell(plan, opts)
    local name, datadir = plan.config.name, plan.env.datadir
    for _, inst in ipairs(plan.instances) do
        if plan.out_of_sync[inst.dbid] then
            term.warn("%s: made, not in sync: %s", cluster.name(inst), plan.out_of_sync[inst.dbid])
        end
    end
    if opts.json then
        term.json({ name = name, datadir = datadir, passfile = plan.env.passfile,
                    instances = plan.instances })
    end
    term.info("Cluster %s is made and running", name)
    term.info("   export COORDINATOR_DATA_DIRECTORY=%s", datadir)
    term.info("   moonrise state        moonrise watch --daemon")
    return 0
end

local function run(plan, opts)
    create_plan.print(plan)
    if opts.dry_run then
        return 0
    end
    local go, code = term.confirm("Continue with the creation of the cluster", opts.yes)
    if not go then
        return code
    end
    local problems = create.remove_leftovers(plan)
    if #problems > 0 then
        return report_all(problems)
    end
    local made, err = make(plan, opts)
    if not made then
        return undo(plan, err)
    end
    return tell(plan, opts)
end

-- Only one init of a cluster at a time.
local function take_turn(conf)
    local dir = home.state_dir(conf.name)
    local lock
    local ok, err = mr.make_dir(dir)
    if ok then
        lock, err = mr.lock_file(dir .. "/init.lock")
    end
    if not lock and err.code == "busy" then
        return nil, mr.error(err.code,
            ("another init of the cluster %s is running"):format(conf.name), { cause = err })
    end
    return lock, err
end

local function main(opts, rest)
    local conf, err = config.load(rest[1])
    if not conf then
        return nil, err
    end
    local lock
    if not opts.dry_run then
        lock, err = take_turn(conf)
        if not lock then
            return nil, err
        end
    end
    local plan, problems = create_plan.make(conf)
    local result = not plan and report_all(problems) or nil
    if plan then
        result, err = run(plan, opts)
        plan.agents:close()
    end
    if lock then
        lock:close()
    end
    return result, err
end

return {
    summary = "make a cluster from its description",
    usage = "[options] cluster.lua",
    description = [[
Makes the cluster that a cluster.lua describes: servers with checksums on, the role and the password
that moonrise uses, the catalog, mirrors and standby, everything started and in sync. Existing
directories that are not empty are refused before anything is made; a failure on the way takes back
what was made; an init that was killed is simply run again.]],
    examples = [[
  moonrise init --dry-run cluster.lua   read the file, show what would be made
  moonrise init -a cluster.lua          make it without asking]],
    options = {
        { key = "no_progress", long = "no-progress", help = "no progress" },
    },
    arguments = 1,
    check = check,
    main = main,
}
