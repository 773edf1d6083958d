--- Policies: loading them into their sandboxes, asking them, checking what they answer.
---
--- A policy that cannot be loaded, errors, runs over its budget or answers nonsense is reported,
--- and the packaged one decides instead; so asking always gives an answer that fits the schema. The
--- contract that writers of policies read is policies/README.md.
local mr = require("moonrise")

local M = {}

M.kinds = { "failover", "recovery", "rebalance" }

local TIME_MS, MEMORY_BYTES = 50, 16 * 2 ^ 20
-- A policy that failed this often in a row is left alone for a while: each failure may cost its
-- budget.
local FAULTS, REST_MS = 5, 60000

local function number_or_nil(value)
    return value == nil or (type(value) == "number" and value == value and value >= 0)
end

local ACTIONS = { nothing = true, wait = true, release = true, promote = true, alert = true }

-- What is lost is lost for good: it is accepted in words that somebody can be asked about.
local function accept_loss_problem(answer)
    local text = answer.accept_loss
    if text == nil then
        return nil
    elseif type(text) ~= "string" or not text:find("%S") or #text > 500 then
        return "accept_loss is no text of 1 to 500 bytes"
    elseif answer.action ~= "promote" then
        return "accept_loss goes with action promote"
    end
    return nil
end

local function check_failover(answer)
    local problem = accept_loss_problem(answer)
    if not ACTIONS[answer.action] then
        return nil, "action is none of nothing, wait, release, promote, alert"
    elseif type(answer.reason) ~= "string" or answer.reason == "" or #answer.reason > 500 then
        return nil, "reason is no text of 1 to 500 bytes"
    elseif not number_or_nil(answer.until_ms) then
        return nil, "until_ms is no number of milliseconds"
    elseif answer.action == "wait" and not answer.until_ms then
        return nil, "action wait needs until_ms"
    elseif problem then
        return nil, problem
    end
    return { action = answer.action, reason = answer.reason, accept_loss = answer.accept_loss,
             until_ms = answer.until_ms and math.max(50, answer.until_ms) }
end

local function by_key(list, key)
    local map = {}
    for _, item in ipairs(list) do
        map[item[key]] = item
    end
    return map
end

local function check_entry(entry, known, path)
    if type(entry) ~= "table" then
        return nil, path .. " is no table"
    end
    local instance = known[entry.dbid]
    if not instance then
        return nil, path .. ".dbid is none of the failed instances, or named twice"
    elseif type(entry.type) ~= "string" or not instance.possible[entry.type] then
        return nil, ("%s.type is not possible for dbid %d"):format(path, entry.dbid)
    elseif entry.reason ~= nil and type(entry.reason) ~= "string" then
        return nil, path .. ".reason is no text"
    elseif not number_or_nil(entry.max_rate) then
        return nil, path .. ".max_rate is no number"
    end
    return { dbid = entry.dbid, type = entry.type, reason = entry.reason,
        max_rate = entry.max_rate }
end

local function check_recovery(answer, facts)
    if type(answer.instances) ~= "table" then
        return nil, "instances is no list"
    end
    local known, result = by_key(facts.instances, "dbid"), { instances = {} }
    for i, entry in ipairs(answer.instances) do
        local clean, why = check_entry(entry, known, ("instances[%d]"):format(i))
        if not clean then
            return nil, why
        end
        known[clean.dbid] = nil
        table.insert(result.instances, clean)
    end
    return result
end

local function check_rebalance(answer, facts)
    if type(answer.waves) ~= "table" then
        return nil, "waves is no list"
    end
    local known, result = by_key(facts.pairs, "content"), { waves = {} }
    for i, wave in ipairs(answer.waves) do
        if type(wave) ~= "table" then
            return nil, ("waves[%d] is no list"):format(i)
        end
        local clean = {}
        for _, content in ipairs(wave) do
            if not known[content] then
                return nil,
                    ("waves[%d] names a content that is not out of place, or twice"):format(i)
            end
            known[content] = nil
            table.insert(clean, content)
        end
        table.insert(result.waves, clean)
    end
    return result
end

local checks = { failover = check_failover, recovery = check_recovery, rebalance = check_rebalance }

--- Holds an answer against its schema.
---@param kind string
---@param answer any
---@param facts table what was asked
---@return table? clean the answer with nothing in it but what the schema names
---@return string? why
function M.check(kind, answer, facts)
    if type(answer) ~= "table" then
        return nil, "the answer is no table"
    end
    return checks[kind](answer, facts)
end

-- What is done when not even the packaged policy answers: nothing, loudly.
local function helpless(kind)
    if kind == "failover" then
        return { action = "alert", reason = "no policy answers", until_ms = 10000 }
    end
    return kind == "recovery" and { instances = {} } or { waves = {} }
end

---@class Policies
local Policies = {}
Policies.__index = Policies

local function load(file)
    return mr.sandbox({ file = file, name = file, time_ms = TIME_MS, memory_bytes = MEMORY_BYTES })
end

local function new_slot(kind, file, is_default)
    return { kind = kind, file = file, default = is_default, faults = 0 }
end

--- Opens policies: the packaged ones, and the user's files before them.
---@param options? {files: table<string, string>?, on_fault: function?} on_fault(kind, file, err) is
--- told of every failure of a policy; it must not wait
---@return Policies
function M.open(options)
    options = options or {}
    local self = setmetatable({ slots = {}, on_fault = options.on_fault or function() end },
        Policies)
    for _, kind in ipairs(M.kinds) do
        local list = {}
        local file = options.files and options.files[kind]
        if file then
            table.insert(list, new_slot(kind, file, false))
        end
        table.insert(list, new_slot(kind, mr.policies_dir .. "/" .. kind .. ".lua", true))
        self.slots[kind] = list
    end
    return self
end

local function ask_slot(slot, facts)
    local err
    if not slot.sandbox then
        slot.sandbox, err = load(slot.file)
        if not slot.sandbox then
            return nil, err
        end
    end
    local answer
    answer, err = slot.sandbox:call(slot.sandbox:has("decide") and "decide" or nil, facts)
    if answer == nil then
        return nil, err or mr.error("policy", slot.file .. ": it answered nothing")
    end
    local clean, why = M.check(slot.kind, answer, facts)
    if not clean then
        return nil, mr.error("policy", ("%s: %s"):format(slot.file, why))
    end
    return clean
end

-- A sandbox that failed is thrown away: it may have hit its memory limit in the middle of anything.
local function fault(self, slot, err)
    if slot.sandbox then
        slot.sandbox:close()
        slot.sandbox = nil
    end
    slot.faults = slot.faults + 1
    slot.last_fault = err
    slot.rests_until = slot.faults % FAULTS == 0 and not slot.default and mr.clock() + REST_MS
        or nil
    self.on_fault(slot.kind, slot.file, err)
end

--- Asks a policy.
---@param kind string "failover", "recovery" or "rebalance"
---@param facts table plain data (policies/README.md)
---@return table answer always fits the schema
---@return {file: string, default: boolean, fault: Error?} meta who answered, and why not the user's
function Policies:ask(kind, facts)
    local why
    for _, slot in ipairs(self.slots[kind]) do
        if not (slot.rests_until and mr.clock() < slot.rests_until) then
            local ran, answer, err = pcall(ask_slot, slot, facts)
            if not ran then
                answer, err = nil, mr.error("policy", tostring(answer))
            end
            if answer then
                slot.faults = 0
                return answer, { file = slot.file, default = slot.default, fault = why }
            end
            fault(self, slot, err)
            why = why or err
        else
            why = slot.last_fault
        end
    end
    return helpless(kind), { file = "", default = true, fault = why }
end

function Policies:close()
    for _, list in pairs(self.slots) do
        for _, slot in ipairs(list) do
            if slot.sandbox then
                slot.sandbox:close()
                slot.sandbox = nil
            end
        end
    end
end

--- Reads `--policy KIND=FILE` options.
---@param texts? string[]
---@param only? string the one kind that is asked here; others are wrong use
---@return table<string, string>? files by kind
---@return string? why wrong use, one line
function M.parse(texts, only)
    local files = {}
    for _, text in ipairs(texts or {}) do
        local kind, file = text:match("^(%w+)=(.+)$")
        if not kind or not checks[kind] then
            return nil,
                ("--policy %s: expected failover=FILE, recovery=FILE or rebalance=FILE")
                    :format(text)
        elseif only and kind ~= only then
            return nil, ("--policy %s: only the %s policy is asked here"):format(text, only)
        elseif not mr.stat(file) then
            return nil, ("--policy %s: there is no file %s"):format(text, file)
        end
        files[kind] = mr.real_path(file)
    end
    return files
end

--- The policies that cluster.lua names in `policies`, from its text in the catalog.
---@param text? string
---@return table<string, string> files by kind
function M.configured(text)
    local box = text and text ~= "" and mr.sandbox({ source = text, name = "cluster.lua" })
    local value = box and box:value()
    local named = type(value) == "table" and value.policies
    local files = {}
    for _, kind in ipairs(M.kinds) do
        local file = type(named) == "table" and named[kind]
        files[kind] = type(file) == "string" and file or nil
    end
    if box then
        box:close()
    end
    return files
end

--- Asks the policy of a runbook's session; opens the cluster's policies at the first question.
---@param ctx {policies: Policies?, cat: table, policy_files: table?}
---@param kind string
---@param facts table
---@return table answer
---@return table meta
function M.ask(ctx, kind, facts)
    if not ctx.policies then
        local state = ctx.cat and ctx.cat:state()
        local files = M.configured(state and state.config)
        for name, file in pairs(ctx.policy_files or {}) do
            files[name] = file
        end
        ctx.policies = M.open({ files = files, on_fault = function(name, file, err)
            require("lib.term").warn("the %s policy %s failed, the packaged one decides: %s",
                name, file, tostring(err))
            if ctx.cat then
                ctx.cat:journal("policy_fault",
                    { text = tostring(err), data = { policy = name, file = file } })
            end
        end })
    end
    return ctx.policies:ask(kind, facts)
end

return M
