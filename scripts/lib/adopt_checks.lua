--- What keeps a running instance from being adopted, each by its name, and what its operator has to
--- know. Pure, but for names that are looked up.
local adopt_settings = require("lib.adopt_settings")
local agents = require("lib.agents")
local arming = require("lib.arming")
local cluster = require("lib.cluster")
local instance = require("lib.instance")
local mr = require("moonrise")

local M = {}

local RESOLVE_MS = 5000

local function refusal(inst, hint, fmt, ...)
    return mr.error("refused", fmt:format(...), { instance = cluster.name(inst), hint = hint })
end

local function refuse(problems, inst, hint, fmt, ...)
    table.insert(problems, refusal(inst, hint, fmt, ...))
end

--- Whether a server that is not ours yet runs where the file says.
---@param inst table
---@param word table its host's word
---@return Error? problem
function M.place(inst, word)
    if word.kind == "missing" or word.kind == "empty" then
        return refusal(inst, "name the data directory of a server that runs",
            "there is no server in %s: it is %s", inst.datadir, word.kind)
    elseif word.kind ~= "datadir" then
        return refusal(inst, "name the data directory of a server that runs",
            "%s is no whole data directory", inst.datadir)
    elseif word.stopped or not word.postmaster or not word.postmaster.ours then
        return refusal(inst, inst.role == "p" and "start it first: it is adopted as it runs"
            or "start it first, if it is the standby of its primary; else empty the directory",
            "no server runs in %s", inst.datadir)
    elseif word.epoch and word.epoch.valid then
        return refusal(inst, "one cluster at a time: see moonrise state there",
            "it belongs to a cluster of moonrise already, as dbid %d", word.epoch.dbid)
    elseif word.postmaster.port ~= inst.port then
        return refusal(inst, "name that port, or another directory",
            "its server has port %d, the file says %d", word.postmaster.port, inst.port)
    end
    return nil
end

-- Files that a copy would share with its source, and those that moonrise writes.
local function check_files(problems, found)
    local inst, facts = found.inst, found.facts
    local dir = facts.settings.data_directory.setting .. "/"
    for _, place in ipairs(facts.places) do
        local name, file = place:match("^(%S+) (.*)$")
        if file:sub(1, #dir) == dir then
            refuse(problems, inst, "take it out of the file: the default is right there",
                "%s is set in %s: a copy of this directory would use the original's", name, file)
        end
    end
    for _, path in ipairs(found.survey.links or {}) do
        refuse(problems, inst, "put the file itself in its place",
            "%s is a symbolic link, and would be replaced by a file", path)
    end
    for _, path in ipairs(found.survey.closed or {}) do
        refuse(problems, inst, "let its owner write in that directory",
            "%s cannot be written anew: its directory is closed to the user of the server", path)
    end
    for _, text in ipairs(facts.file_errors) do
        refuse(problems, inst, "mend the file first: its next start would fail", "%s", text)
    end
end

-- Who else takes care of it, or starts it.
local function check_keepers(problems, found)
    local inst, survey = found.inst, found.survey
    local parent = survey.parent or ""
    for _, name in ipairs({ "patroni", "pg_autoctl", "stolon", "repmgr", "pacemaker" }) do
        if parent:lower():find(name, 1, true) then
            refuse(problems, inst, "end its care of this instance first",
                "it is the child of another manager: %s", parent)
        end
    end
    for _, text in ipairs(found.facts.managers) do
        refuse(problems, inst, "end that care first, and remove what is left of it",
            "another manager takes care of it, or did: %s", text)
    end
    for _, start in ipairs(survey.starts or {}) do
        refuse(problems, inst, start["end"], "something else starts it: %s", start.what)
    end
end

local function check_server(problems, plan, found)
    local inst, facts = found.inst, found.facts
    local major = math.floor(facts.version / 10000)
    if not facts.superuser then
        refuse(problems, inst, "name a superuser by --superuser", "%s is no superuser there",
            plan.superuser)
    end
    if facts.sysid ~= found.word.control.sysid then
        refuse(problems, inst, "look at what listens on its socket",
            "the server that answers is of system %s, its directory of %s", facts.sysid,
            found.word.control.sysid)
    end
    if tostring(major) ~= plan.version:match("(%d+)[%.%a]") then
        refuse(problems, inst, "name its programs in pg.bin", "its version is %s, pg.bin has %s",
            facts.version_text, plan.version)
    end
    if facts.in_recovery ~= (inst.role == "m") then
        refuse(problems, inst, "the file names primaries and mirrors as they are now",
            inst.role == "m" and "it is no standby: it is not in recovery"
            or "it is no primary: it is in recovery")
    end
end

--- What is refused of one instance, whatever its role.
---@param plan AdoptPlan
---@param found Adopted
---@param problems Error[] added to
function M.instance(plan, found, problems)
    local inst, facts = found.inst, found.facts
    check_server(problems, plan, found)
    check_files(problems, found)
    check_keepers(problems, found)
    local names = facts.settings.synchronous_standby_names.setting
    if names ~= "" then
        refuse(problems, inst, "what waits for those would not any more. When that is meant: "
            .. "alter system reset synchronous_standby_names; select pg_reload_conf()",
            "its synchronous_standby_names is '%s', and moonrise sets it alone", names)
    end
    if inst.role == "p" and facts.has_role then
        refuse(problems, inst, "rename it, or drop it: drop owned by moonrise; drop role moonrise",
            "it has a role moonrise already")
    end
    if inst.role == "p" and inst.content == -1 and facts.has_database then
        refuse(problems, inst, "rename it, or drop it", "it has a database moonrise already")
    end
end

local function addresses(name)
    local set = {}
    for _, one in ipairs(mr.resolve(name, RESOLVE_MS) or {}) do
        set[one] = true
    end
    return set
end

-- Whether a receiver's sender is this primary's address and port, or its socket.
local function is_sender(receiver, primary)
    local inst = primary.inst
    if tonumber(receiver.port) ~= inst.port then
        return false
    elseif receiver.host:sub(1, 1) == "/" then
        return receiver.host == primary.socket_dir
    end
    local theirs = addresses(receiver.host)
    for _, name in ipairs({ inst.address, inst.hostname }) do
        for one in pairs(addresses(name)) do
            if theirs[one] then
                return true
            end
        end
    end
    return false
end

local function check_receiver(problems, found, primary)
    local inst, receiver = found.inst, found.facts.receiver
    if receiver.status ~= "streaming" then
        refuse(problems, inst, "see its log for the reason; or empty its directory for a copy",
            "it does not stream (%s)", receiver.status or "it has no receiver")
    elseif not is_sender(receiver, primary) then
        refuse(problems, inst, "point its primary_conninfo at the primary, as the file names it",
            "it streams from %s port %s, not from its primary %s port %d", receiver.host,
            tostring(receiver.port), primary.inst.address, primary.inst.port)
    elseif receiver.timeline ~= primary.facts.timeline then
        refuse(problems, inst, "empty its directory for a copy",
            "it receives timeline %d, its primary writes timeline %d", receiver.timeline,
            primary.facts.timeline)
    end
end

local ANOTHER_PLACE = "leave it out of the file, and give that tablespace another place when it is "
    .. "added later: moonrise addmirrors --tablespace-mapping %s=NEWDIR. A mirror on another host "
    .. "has such a directory of its own"

-- Two servers that see the same directories would write one tablespace.
local function shared_spaces(problems, inst, theirs, own)
    local mine = {}
    for _, space in ipairs(own or {}) do
        mine[space.oid] = space.path
    end
    for _, space in ipairs(theirs.word.tablespaces or {}) do
        local inside = (space.path .. "/"):sub(1, #theirs.inst.datadir + 1)
            == theirs.inst.datadir .. "/"
        local path = mine[space.oid] or not own and space.path
        if agents.same_host(inst.hostname, theirs.inst.hostname) and not inside
            and path == space.path then
            refuse(problems, inst, ANOTHER_PLACE:format(space.path),
                "its primary's tablespace %s is in %s, which it would share", space.oid,
                space.path)
        end
    end
end

--- What is refused of a standby that runs.
---@param found Adopted
---@param primary Adopted
---@param problems Error[] added to
function M.standby(found, primary, problems)
    local inst, facts = found.inst, found.facts
    if facts.sysid ~= primary.facts.sysid then
        refuse(problems, inst, "name its own primary, or empty its directory for a copy",
            "it is of system %s, its primary of %s", facts.sysid, primary.facts.sysid)
        return
    end
    check_receiver(problems, found, primary)
    local now = facts.settings
    for _, name in ipairs({ "primary_conninfo", "primary_slot_name" }) do
        if now[name].source == "command line" then
            refuse(problems, inst, "start it without", "%s is on its command line", name)
        end
    end
    if facts.paused then
        refuse(problems, inst, "select pg_wal_replay_resume()", "its replay is paused")
    end
    if now.recovery_min_apply_delay.setting ~= "0" then
        refuse(problems, inst, "alter system reset recovery_min_apply_delay",
            "it replays with a delay: a mirror has to be near")
    end
    if now.recovery_target_timeline.setting ~= "latest" then
        refuse(problems, inst, "alter system reset recovery_target_timeline",
            "its recovery_target_timeline is %s: a mirror follows its primary",
            now.recovery_target_timeline.setting)
    end
    shared_spaces(problems, inst, primary, found.word.tablespaces or {})
end

--- What is refused of a mirror that is to be made by a copy.
---@param made {inst: table}
---@param primary Adopted
---@param problems Error[] added to
function M.copy(made, primary, problems)
    shared_spaces(problems, made.inst, primary, nil)
end

--- No two contents are of one system.
---@param adopted Adopted[]
---@param problems Error[] added to
function M.systems(adopted, problems)
    local seen = {}
    for _, found in ipairs(adopted) do
        local other = seen[found.facts.sysid]
        if found.inst.role == "p" and other then
            refuse(problems, found.inst, "each content is a system of its own, made by initdb",
                "it is of the same system as %s", cluster.name(other))
        elseif found.inst.role == "p" then
            seen[found.facts.sysid] = found.inst
        end
    end
end

--- No two instances of a host have a configuration file in common: each gets lines of its own.
---@param adopted Adopted[]
---@param problems Error[] added to
function M.files(adopted, problems)
    local seen = {}
    for _, found in ipairs(adopted) do
        for _, name in ipairs({ "config_file", "hba_file" }) do
            local path = found.facts.settings[name].setting
            local key = found.inst.hostname .. " " .. path
            if seen[key] then
                refuse(problems, found.inst, "give each its own",
                    "its %s %s is that of %s, too", name, path, cluster.name(seen[key]))
            end
            seen[key] = found.inst
        end
    end
end

-- The standby that is adopted is one of its primary's replicas: by its slot, else by its name.
local function is_standby(replica, standby)
    local receiver = standby and standby.facts.receiver
    if not receiver then
        return false
    elseif receiver.slot then
        return replica.slot == receiver.slot
    end
    return replica.name == receiver.name and not replica.slot
end

--- What streams from a primary, and what holds its WAL, beside the standby that is adopted: it
--- stays as it is, unless it bears names that are moonrise's.
---@param found Adopted
---@param standby? Adopted
---@param problems Error[] added to
function M.others(found, standby, problems)
    found.replicas, found.slots = {}, {}
    for _, replica in ipairs(found.facts.replicas) do
        if not is_standby(replica, standby) then
            table.insert(found.replicas, replica)
        end
        if replica.name:find("^mr_") then
            refuse(problems, found.inst, "give it another application_name",
                "%s streams from it as %s: names that begin with mr_ are moonrise's",
                replica.address, replica.name)
        end
    end
    for _, slot in ipairs(found.facts.slots) do
        if slot.name:find("^mr_") then
            refuse(problems, found.inst, ("drop it when nobody needs it: "
                .. "select pg_drop_replication_slot('%s')"):format(slot.name),
                "it has a slot %s: names that begin with mr_ are moonrise's", slot.name)
        end
        if standby and slot.name == standby.facts.receiver.slot then
            standby.former_slot = slot.name
        else
            table.insert(found.slots, slot)
        end
    end
end

local function warn(plan, found, fmt, ...)
    table.insert(plan.warnings, cluster.name(found.inst) .. ": " .. fmt:format(...))
end

local function warn_of_promises(plan, found)
    local facts, now = found.facts, found.facts.settings
    local never = arming.never(now.synchronous_commit.setting, facts.version)
    if never then
        warn(plan, found, "%s; its pair will not be in sync", never)
    end
    for _, text in ipairs(facts.lower_commits) do
        warn(plan, found, "%s: those commits do not wait for the mirror", text)
    end
    if now.fsync.setting == "off" then
        warn(plan, found, "fsync is off: what it loses with its power nobody has promised")
    end
    if not found.word.control.checksums and now.wal_log_hints.setting ~= "on" then
        warn(plan, found, "neither data checksums nor wal_log_hints: its recoveries read both "
            .. "copies whole, an incremental one is never possible")
    end
end

local function warn_of_others(plan, found)
    local facts = found.facts
    if facts.settings.max_slot_wal_keep_size.setting == "-1" and #facts.slots > 0 then
        warn(plan, found, "max_slot_wal_keep_size is -1, and other slots are there: a slot that "
            .. "nobody reads fills its disk")
    end
    for _, change in ipairs(found.changes) do
        if adopt_settings.standbys_need(change.name) and #found.replicas > 0 then
            warn(plan, found, "%s becomes %s: standbys of others that have less stop replaying",
                change.name, change.new)
        end
    end
end

local function warn_of_places(plan, found)
    local now, inst = found.facts.settings, found.inst
    if now.logging_collector.setting == "on" and now.log_directory.setting:sub(1, 1) == "/" then
        warn(plan, found, "log_directory is %s: its mirror logs there, too",
            now.log_directory.setting)
    end
    if found.survey.unit then
        warn(plan, found, "it runs inside the unit %s until its next start: do not stop that unit",
            found.survey.unit)
    end
    if found.socket_dir ~= instance.socket_dir(inst) then
        warn(plan, found, "its socket is in %s now, from its next start on in %s",
            found.socket_dir, instance.socket_dir(inst))
    end
    if now.listen_addresses.setting ~= instance.listen(inst) then
        warn(plan, found, "it listens on '%s' now, from its next start on at %s only",
            now.listen_addresses.setting, instance.listen(inst))
    end
end

--- What is no reason to refuse an instance.
---@param plan AdoptPlan
---@param found Adopted
function M.warn(plan, found)
    if found.inst.role == "p" then
        warn_of_promises(plan, found)
        warn_of_others(plan, found)
    end
    warn_of_places(plan, found)
end

return M
