--- What `init` is about to make, and what speaks against it: nothing has been touched yet.
local agents = require("lib.agents")
local cluster = require("lib.cluster")
local config = require("lib.config")
local home = require("lib.home")
local host_setup = require("lib.host_setup")
local instance = require("lib.instance")
local mr = require("moonrise")
local term = require("lib.term")
local tls_check = require("lib.tls_check")

local M = {}

local PROGRAMS = { "postgres", "initdb" }

-- The newest that Debian has installed.
local function newest_bin()
    local best, root = nil, "/usr/lib/postgresql"
    for _, name in ipairs(mr.list_dir(root) or {}) do
        local major = tonumber(name)
        if major and (not best or major > best)
            and mr.stat(("%s/%s/bin/postgres"):format(root, name)) then
            best = major
        end
    end
    return best and ("%s/%d/bin"):format(root, best)
end

local function programs(conf)
    local bin = conf.pg.bin or newest_bin()
    if not bin then
        return nil, mr.error("usage", "PostgreSQL's programs are not found",
            { hint = "say where they are: pg = { bin = \"/usr/lib/postgresql/15/bin\" }" })
    end
    for _, name in ipairs(PROGRAMS) do
        local stat = mr.stat(bin .. "/" .. name)
        if not stat then
            return nil, mr.error("usage", ("pg.bin: there is no %s in %s"):format(name, bin))
        end
    end
    local result, err = mr.run({ bin .. "/postgres", "--version" }, { timeout_ms = 10000 })
    if not result or result.code ~= 0 then
        return nil, err or mr.error("child", ("%s/postgres: %s"):format(bin, result.stderr))
    end
    local major = tonumber(result.stdout:match("(%d+)[%.%a]"))
    if not major or major < 15 then
        return nil, mr.error("version", ("%s is not supported: 15 and later are")
            :format((result.stdout:gsub("%s+$", ""))))
    end
    return bin, (result.stdout:gsub("%s+$", ""))
end

local function environment(conf, bin)
    local coordinator, tls = conf.coordinator, config.tls(conf)
    return {
        name = conf.name, user = "moonrise", passfile = home.state_dir(conf.name) .. "/passfile",
        bin = bin, dbname = "moonrise", datadir = coordinator.datadir, port = coordinator.port,
        listen = coordinator.address, socket_dir = instance.socket_dir(coordinator),
        host = instance.socket_dir(coordinator),
        sslmode = tls.sslmode, sslrootcert = tls.sslrootcert,
        channel_binding = tls.channel_binding,
    }
end

--- The file that says what an `init` has begun or made under a cluster's name.
---@param name string
---@return string
function M.record_path(name)
    return home.state_dir(name) .. "/cluster.json"
end

-- Who an earlier init of this name was that did not end, "" when there was none: what it has made
-- may be removed. Or the cluster that it made.
local function earlier(conf)
    local text = mr.read_file(M.record_path(conf.name))
    local record = text and mr.json_decode(text)
    if not record then
        return ""
    elseif record.stage == "making" then
        return record.maker or ""
    elseif record.stage == "adopting" then
        return nil, mr.error("exists", ("an adoption of the cluster %s was interrupted")
            :format(conf.name), { hint = "run moonrise init --adopt again: it takes back " ..
                "what was done" })
    elseif mr.stat(record.datadir .. "/moonrise.json") then
        return nil, mr.error("exists", ("a cluster %s exists already: its coordinator is %s")
            :format(conf.name, record.datadir), { hint = "give this one another name" })
    end
    return ""
end

local RESOLVE_MS = 5000

--- Whether a server could listen where an instance is to be reached, by the word of its host.
---@param set table lib/agents.lua's
---@param inst table
---@return {free: boolean, why: string?}? answer
---@return Error? err its address is not known there
function M.place(set, inst)
    local answer, err = set:call(inst.hostname, "address",
        { address = inst.address, port = inst.port }, { timeout_ms = RESOLVE_MS })
    if answer and not answer.known then
        err = mr.error("usage", ("address %s: %s"):format(inst.address, answer.why),
            { instance = cluster.name(inst) })
    end
    return answer and answer.known and answer or nil, err
end

--- Whether a server could listen where an instance is to be reached.
---@param set table lib/agents.lua's
---@param inst table
---@return boolean? free
---@return Error? err why it is not
function M.port_is_free(set, inst)
    local place, err = M.place(set, inst)
    if place and not place.free then
        err = mr.error("exists", ("port %d is in use on %s, or not its own: %s"):format(
            inst.port, inst.address, place.why),
            { instance = cluster.name(inst), hint = "nothing was touched; name another port" })
    end
    return place and place.free, err
end

--- Whether an instance can be made in its directory; nothing is touched.
---@param set table agents
---@param inst table
---@param left_by string the init that was interrupted, whose directories are removed first
---@return table? found {inst, kind, free_bytes, leftover}
---@return Error? err
function M.examine(set, inst, left_by)
    local word, err = set:inspect(inst)
    if not word then
        return nil, err
    end
    local found = { inst = inst, kind = word.kind, free_bytes = word.free_bytes,
                    leftover = left_by ~= "" and word.maker == left_by }
    if found.leftover then
        return found
    elseif word.kind == "missing" or word.kind == "empty" then
        local free
        free, err = M.port_is_free(set, inst)
        return free and found or nil, err
    end
    return nil, mr.error("exists", ("%s is not empty"):format(inst.datadir), {
        instance = cluster.name(inst),
        hint = "nothing was touched; name another directory, or empty this one" })
end

local function examine_all(set, instances, left_by)
    local list, problems = {}, {}
    local results = mr.parallel(instances, 16, function(inst)
        return M.examine(set, inst, left_by)
    end)
    for i, result in ipairs(results) do
        if result.error then
            table.insert(problems, result.error)
        else
            list[i] = result
        end
    end
    return list, problems
end

--- How many instances each host has.
---@param instances table[]
---@return table<string, integer>
function M.per_host(instances)
    local count = {}
    for _, inst in ipairs(instances) do
        count[inst.hostname] = (count[inst.hostname] or 0) + 1
    end
    return count
end

local function unreadable_policies(conf)
    local problems = {}
    for kind, file in pairs(conf.policies or {}) do
        local text, err = mr.read_file(file, 2 ^ 20)
        if not text then
            table.insert(problems, mr.error("usage", ("policies.%s: %s"):format(kind, err.message),
                { cause = err, hint = "name a file that is there, or leave it out" }))
        end
    end
    return problems
end

---@class CreatePlan
---@field config Config
---@field env table
---@field instances table[]
---@field found table[] by index of instances: {inst, kind, free_bytes, leftover}
---@field per_host table<string, integer>
---@field version string
---@field agents table
---@field left_by string an earlier init that was interrupted, "" when there was none
---@field maker string? once it is carried out: what all that it makes is marked with

--- What every plan begins with: who we are, what there is to run, what an earlier init has left.
---@param conf Config
---@return {env: table, version: string, left_by: string}? begun
---@return Error[] problems
function M.begin(conf)
    local missing = unreadable_policies(conf)
    if mr.whoami().uid == 0 then
        return nil, { mr.error("usage", "PostgreSQL does not run as root",
            { hint = "run init as the user that shall own the servers" }) }
    elseif #missing > 0 then
        return nil, missing
    end
    local bin, version = programs(conf)
    if not bin then
        return nil, { version }
    end
    local left_by, err = earlier(conf)
    if not left_by then
        return nil, { err }
    end
    return { env = environment(conf, bin), version = version, left_by = left_by }, {}
end

-- Other hosts would take these names for themselves.
local function local_names(hosts)
    local named, others = nil, nil
    for _, host in ipairs(hosts) do
        if agents.is_loopback(host) then
            named = host
        elseif not agents.is_local(host) then
            others = host
        end
    end
    return named and others and mr.error("usage",
        ("host %s is another one to each host of a cluster that has %s, too"):format(named, others),
        { hint = "give this host the name by which the others know it" }) or nil
end

--- What speaks against the hosts of a cluster that is made here.
---@param set table lib/agents.lua's
---@param env table
---@param instances table[]
---@param version string of PostgreSQL here
---@return Error[] problems
function M.check_hosts(set, env, instances, version)
    local hosts = cluster.values(instances, "hostname")
    local coordinator = instances[1].hostname
    if not agents.is_local(coordinator) then
        return { mr.error("usage", ("the coordinator's host %s is not this one (%s)"):format(
            coordinator, mr.whoami().hostname), { hint = "run init on the coordinator's host" }) }
    end
    local problem = local_names(hosts)
    return problem and { problem } or host_setup.check_programs(set, env.bin, hosts, version)
end

--- Makes the plan. The caller closes plan.agents.
---@param conf Config
---@return CreatePlan? plan
---@return Error[]|Error problems
function M.make(conf)
    local begun, wrong = M.begin(conf)
    if not begun then
        return nil, wrong
    end
    local env, version, left_by = begun.env, begun.version, begun.left_by
    local instances = config.instances(conf)
    local set = agents.new(env)
    local problems = M.check_hosts(set, env, instances, version)
    local found = {}
    if #problems == 0 then
        found, problems = examine_all(set, instances, left_by)
    end
    for _, problem in ipairs(tls_check.run(set, conf, instances)) do
        table.insert(problems, problem)
    end
    if #problems > 0 then
        set:close()
        return nil, problems
    end
    return { config = conf, env = env, instances = instances, found = found, version = version,
             per_host = M.per_host(instances), agents = set, left_by = left_by }
end

--- What an instance is in words.
---@param inst table
---@return string
function M.role_name(inst)
    if inst.content == -1 then
        return inst.role == "p" and "coordinator" or "standby"
    end
    return inst.role == "p" and "primary" or "mirror"
end

--- Prints the plan.
---@param plan CreatePlan
function M.print(plan)
    for _, warning in ipairs(plan.config.warnings) do
        term.warn("%s", warning)
    end
    term.info("Cluster %s with %s from %s", plan.config.name, plan.version, plan.env.bin)
    local rows, leftovers = {}, 0
    for i, inst in ipairs(plan.instances) do
        rows[i] = { inst.dbid, M.role_name(inst), inst.content, inst.hostname, inst.port,
            inst.datadir }
        local found = plan.found[i]
        leftovers = leftovers + (found.leftover and 1 or 0)
    end
    local headers = { "dbid", "role", "content", "host", "port", "directory" }
    for _, line in ipairs(term.table(headers, rows)) do
        term.info("   %s", line)
    end
    if not plan.config.standby then
        term.info("Without a standby coordinator; one can be added later")
    end
    if leftovers > 0 then
        term.warn("An earlier init of %s was interrupted; %d directories of it are removed first",
            plan.config.name, leftovers)
    end
end

return M
