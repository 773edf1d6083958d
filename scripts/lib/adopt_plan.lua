--- What `init --adopt` is about to change, and what speaks against it: nothing was touched yet.
local adopt_checks = require("lib.adopt_checks")
local adopt_look = require("lib.adopt_look")
local adopt_settings = require("lib.adopt_settings")
local agents = require("lib.agents")
local cluster = require("lib.cluster")
local config = require("lib.config")
local create_plan = require("lib.create_plan")
local instance = require("lib.instance")
local mr = require("moonrise")
local settings = require("lib.settings")
local tls_check = require("lib.tls_check")

local M = {}

---@class Adopted
---@field inst table
---@field word table its host's word
---@field survey table what is around it
---@field facts table what it says itself
---@field socket_dir string where it is reached now
---@field files table? config_file, hba_file, ident_file: its configuration is not among its data
---@field wanted table<string, any> its moonrise.conf
---@field changes table[] what of that is not so yet
---@field hba string[] its lines of pg_hba.conf

---@class AdoptPlan: CreatePlan
---@field superuser string
---@field adopted Adopted[] the instances that run
---@field made table[] the mirrors that a copy makes: {inst, kind}
---@field restarts Adopted[]
---@field standbys table<integer, Adopted> by dbid
---@field sockets table<integer, string> by dbid
---@field timelines table<integer, integer> of primaries, by dbid
---@field warnings string[]
---@field adoption string? once it is carried out: what all that it makes is marked with
---@field make_database string[]? statements

local function named(inst, err)
    return mr.error(err.code, err.message,
        { instance = cluster.name(inst), hint = err.hint, cause = err.cause })
end

local function about(inst, plan)
    return { datadir = inst.datadir, port = inst.port, bin = plan.env.bin, user = plan.env.user,
             passfile = plan.env.passfile }
end

-- The paths of a configuration outside of the data directory, as Debian's clusters have it.
local function files_outside(facts)
    local now, files = facts.settings, {}
    for _, name in ipairs({ "config_file", "hba_file", "ident_file" }) do
        files[name] = now[name].setting
    end
    local inside = now.data_directory.setting .. "/postgresql.conf"
    return files.config_file ~= inside and files or nil
end

-- An instance that runs where the file says: what it says, and what is around it.
local function look(plan, inst, word)
    local problem = adopt_checks.place(inst, word)
    if problem then
        return nil, problem
    end
    local found = { inst = inst, word = word }
    local post = word.postmaster
    found.socket_dir = post.socket_dir ~= "" and post.socket_dir or post.listen
    local err
    found.facts, err = adopt_look.facts(plan, inst)
    if found.facts then
        local args = about(inst, plan)
        found.files = files_outside(found.facts)
        args.config_file = found.facts.settings.config_file.setting
        args.hba_file = found.facts.settings.hba_file.setting
        found.survey, err = plan.agents:call(inst.hostname, "survey", args)
    end
    if not found.survey then
        return nil, named(inst, err)
    end
    return found
end

local function examine(plan, inst)
    local word, err = plan.agents:inspect(inst)
    if not word and err.code == "permission" then
        err = mr.error(err.code, err.message, { instance = err.instance, cause = err.cause,
            hint = "run init as the user who owns the servers" })
    end
    if not word then
        return nil, err
    end
    local empty = word.kind == "missing" or word.kind == "empty"
    if inst.role == "m" and (empty or word.kind == "half-made") then
        local made
        made, err = create_plan.examine(plan.agents, inst, {})
        return made and { made = made }, err
    end
    local found
    found, err = look(plan, inst, word)
    return found and { adopted = found }, err
end

local function examine_all(plan, problems)
    local results = mr.parallel(plan.instances, 16, function(inst)
        return examine(plan, inst)
    end)
    for _, result in ipairs(results) do
        if result.error then
            table.insert(problems, result.error)
        elseif result.made then
            table.insert(plan.made, result.made)
        else
            table.insert(plan.adopted, result.adopted)
        end
    end
end

local function change_of(found, name)
    for _, change in ipairs(found.changes) do
        if change.name == name then
            return change
        end
    end
    -- Closed, as its files shall have it; but nobody reaches it so.
    local change = { name = name, old = found.facts.settings[name].shown }
    table.insert(found.changes, change)
    return change
end

-- Not listening where the cluster will look for it is a setting that needs a restart, too.
local function must_listen(plan, found, problems)
    local place, err = create_plan.place(plan.agents, found.inst)
    if not place then
        table.insert(problems, err)
    elseif place.free then
        local change = change_of(found, "listen_addresses")
        change.when, change.new = "restart", instance.listen(found.inst)
    end
end

local function judge_settings(plan, found, primary, problems)
    local inst = found.inst
    found.wanted = adopt_settings.wanted(plan.config, inst, found.facts, { primary = primary,
        room = { free_bytes = found.word.free_bytes,
                 instances = plan.per_host[inst.hostname] } })
    local wrong
    found.changes, wrong = adopt_settings.changes(found.facts, found.wanted)
    for _, text in ipairs(wrong) do
        table.insert(problems, mr.error("usage", text, { instance = cluster.name(inst),
            hint = "take it out of pg.settings" }))
    end
    must_listen(plan, found, problems)
    for _, change in ipairs(found.changes) do
        if change.when == "restart" then
            found.restarts = true
        end
    end
    if found.restarts then
        table.insert(plan.restarts, found)
    end
end

local function find_adopted(plan, content, role)
    for _, found in ipairs(plan.adopted) do
        if found.inst.content == content and found.inst.role == role then
            return found
        end
    end
    return nil
end

-- Where it is reached after its next start, and where it is reached now.
local function sockets(found)
    local own = instance.socket_dir(found.inst)
    if found.socket_dir == own then
        return own
    end
    return own .. "," .. found.socket_dir
end

local function remember(plan, found)
    local inst = found.inst
    plan.sockets[inst.dbid] = sockets(found)
    found.hba = settings.hba(plan.config, plan.instances, nil, inst)
    if inst.role == "p" then
        plan.timelines[inst.dbid] = math.max(found.facts.timeline,
            found.word.control.newest_timeline or 1)
    else
        plan.standbys[inst.dbid] = found
    end
    if inst.dbid == plan.instances[1].dbid then
        plan.env.socket_dir, plan.env.host = plan.sockets[inst.dbid], plan.sockets[inst.dbid]
    end
end

-- Primaries first: what a standby needs depends on its primary.
local function judge(plan, problems)
    for _, role in ipairs({ "p", "m" }) do
        for _, found in ipairs(plan.adopted) do
            local primary = role == "m" and find_adopted(plan, found.inst.content, "p") or nil
            if found.inst.role == role and (role == "p" or primary) then
                adopt_checks.instance(plan, found, problems)
                if primary then
                    adopt_checks.standby(found, primary, problems)
                end
                judge_settings(plan, found, primary, problems)
                remember(plan, found)
            end
        end
    end
    for _, made in ipairs(plan.made) do
        local primary = find_adopted(plan, made.inst.content, "p")
        if primary then
            adopt_checks.copy(made, primary, problems)
        end
    end
    adopt_checks.systems(plan.adopted, problems)
    adopt_checks.files(plan.adopted, problems)
    for _, found in ipairs(plan.adopted) do
        if found.inst.role == "p" then
            adopt_checks.others(found, find_adopted(plan, found.inst.content, "m"), problems)
        end
        adopt_checks.warn(plan, found)
    end
end

--- Makes the plan. The caller closes plan.agents.
---@param conf Config
---@param opts {superuser: string?}
---@return AdoptPlan? plan
---@return Error[] problems
function M.make(conf, opts)
    if #conf.fdw.databases > 0 then
        return nil, { mr.error("usage", "fdw.databases: databases are made by init, not adopted",
            { hint = "leave fdw out of the file" }) }
    end
    local begun, wrong = create_plan.begin(conf)
    if not begun then
        return nil, wrong
    end
    local instances = config.instances(conf)
    local plan = { config = conf, env = begun.env, version = begun.version, instances = instances,
        agents = agents.new(begun.env), per_host = create_plan.per_host(instances),
        superuser = opts.superuser or mr.whoami().user,
        superuser_passfile = mr.getenv("PGPASSFILE"),
        adopted = {}, made = {}, restarts = {}, standbys = {}, sockets = {}, timelines = {},
        warnings = {}, out_of_sync = {} }
    local problems = create_plan.check_hosts(plan.agents, plan.env, instances, plan.version)
    if begun.left_by ~= "" then
        table.insert(problems, mr.error("exists",
            ("an init of the cluster %s was interrupted"):format(conf.name),
            { hint = "run it again without --adopt: it removes what it has left" }))
    elseif #problems == 0 then
        examine_all(plan, problems)
        for _, problem in ipairs(tls_check.run(plan.agents, conf, instances)) do
            table.insert(problems, problem)
        end
    end
    if #problems == 0 then
        judge(plan, problems)
    end
    if #problems > 0 then
        plan.agents:close()
        return nil, problems
    end
    return plan, problems
end

return M
