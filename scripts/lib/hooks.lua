--- Hooks: what the user wants to be run for each event that matters (cluster.lua's `on_event`).
---
--- Each hook has a queue with a bound and a task that runs its program for one event after the
--- other, with a deadline. Nobody waits for it: what does not fit into the queue is dropped,
--- counted and told. What goes wrong with a hook is journaled under a kind that no hook is run
--- for.
local mr = require("moonrise")

local M = {}

--- The kinds of events that a hook may be run for; without a choice of its own it is for all.
M.kinds = { "state", "failover", "double_fault", "alert", "refused", "disk", "sessions",
            "failed", "paused", "policy_fault", "fault" }

M.TIMEOUT_MS = 10000
local QUEUE_EVENTS = 100
local TERM_MS, KEEP_BYTES, LINE_BYTES = 1000, 4096, 200

-- A state that is somebody's doing is no news of the pair.
local NO_NEWS = { leased = true, abandoned = true, unseen = true }

-- What a program needs to find its things. Passwords and connection strings are in other names.
local ENVIRONMENT = { "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE",
    "LC_MESSAGES", "TZ", "TMPDIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME" }

---@class HookSpec
---@field run string absolute path of a program, or of a runbook when it ends in .lua
---@field kinds? string[]
---@field timeout_ms? number

---@class Hook
---@field run string
---@field argv string[]
---@field kinds table<string, boolean>
---@field timeout_ms number
---@field queue Queue of events that wait
---@field dropped integer since the last one that was run
---@field task Task

---@class Hooks
local Hooks = {}
Hooks.__index = Hooks

local function set_of(list)
    local set = {}
    for _, item in ipairs(list) do
        set[item] = true
    end
    return set
end

local known = set_of(M.kinds)

--- Whether a hook may be run for this kind of event.
---@param kind any
---@return boolean
function M.is_kind(kind)
    return known[kind] == true
end

--- cluster.lua's `on_event` as a list: it may be one path, one hook, or a list of them.
---@param value any
---@return any list what is none of them stays as it is, for the schema to refuse
function M.as_list(value)
    if type(value) == "string" then
        return { { run = value } }
    elseif type(value) ~= "table" then
        return value
    elseif #value == 0 and next(value) ~= nil then
        return { value }
    end
    local list = {}
    for key, item in pairs(value) do
        list[key] = type(item) == "string" and { run = item } or item
    end
    return list
end

--- Hooks that are told of nothing before they are configured.
---@param env Env
---@param journal fun(kind: string, entry: table)
---@return Hooks
function M.new(env, journal)
    return setmetatable({ env = env, journal = journal, list = {}, text = "[]" }, Hooks)
end

local function environment(env)
    local only = { COORDINATOR_DATA_DIRECTORY = env.datadir }
    for _, name in ipairs(ENVIRONMENT) do
        only[name] = mr.getenv(name)
    end
    return only
end

local function first_line(text)
    return (text:match("[^\n]*"):gsub("%c", " "):sub(1, LINE_BYTES))
end

local function problem_of(result, err)
    if not result then
        return tostring(err)
    elseif result.signal ~= 0 then
        return ("signal %d ended it"):format(result.signal)
    elseif result.code ~= 0 then
        local line = first_line(result.stderr)
        return ("exit code %d%s"):format(result.code, line ~= "" and ": " .. line or "")
    end
    return nil
end

local function tell(self, hook, text, event)
    self.journal("hook", { text = ("%s: %s"):format(hook.run, text),
                           data = { hook = hook.run, event = event.kind } })
end

local function run(self, hook, event)
    if hook.dropped > 0 then
        event.dropped, hook.dropped = hook.dropped, 0
        tell(self, hook, ("%d event(s) were dropped: it is slower than they come")
            :format(event.dropped), event)
    end
    local result, err = mr.run(hook.argv, {
        stdin = mr.json_encode(event) .. "\n", timeout_ms = hook.timeout_ms, term_ms = TERM_MS,
        keep_bytes = KEEP_BYTES, only_env = environment(self.env), cwd = "/" })
    local problem = problem_of(result, err)
    if problem then
        tell(self, hook, problem, event)
    end
end

local function serve(self, hook)
    while true do
        local event = hook.queue:pop()
        if not event or event.over then
            return
        end
        local ok, err = pcall(run, self, hook, event)
        if not ok then
            tell(self, hook, first_line(tostring(err)), event)
        end
    end
end

local function open(self, spec)
    local runbook = spec.run:match("%.lua$")
    local hook = {
        run = spec.run, argv = runbook and { mr.executable, "run", spec.run } or { spec.run },
        kinds = set_of(spec.kinds or M.kinds), timeout_ms = spec.timeout_ms or M.TIMEOUT_MS,
        queue = mr.queue(), dropped = 0,
    }
    hook.task = mr.spawn(serve, self, hook)
    return hook
end

--- Takes the hooks of a cluster.lua. What earlier ones have in their queues they finish.
---@param specs HookSpec[]
function Hooks:configure(specs)
    local text = mr.json_encode(mr.json_array(specs))
    if text == self.text or self.closed then
        return
    end
    for _, hook in ipairs(self.list) do
        hook.queue:push({ over = true })
    end
    self.text, self.list = text, {}
    for i, spec in ipairs(specs) do
        self.list[i] = open(self, spec)
    end
end

local function is_news(kind, entry)
    return known[kind] and not (kind == "state" and NO_NEWS[(entry.data or {}).to])
end

local function time_text(ms)
    return ("%s.%03dZ"):format(os.date("!%Y-%m-%dT%H:%M:%S", math.floor(ms / 1000)), ms % 1000)
end

--- Has the hooks for this kind run with a row of the journal; never waits.
---@param kind string
---@param entry {content: integer?, dbid: integer?, text: string, data: table?}
function Hooks:event(kind, entry)
    if self.closed or not is_news(kind, entry) then
        return
    end
    local at = (entry.data or {}).at or math.floor(mr.wall())
    for _, hook in ipairs(self.list) do
        if hook.kinds[kind] and hook.queue:size() < QUEUE_EVENTS then
            hook.queue:push({ time = time_text(at), cluster = self.env.name, kind = kind,
                content = entry.content, dbid = entry.dbid, text = entry.text, data = entry.data })
        elseif hook.kinds[kind] then
            hook.dropped = hook.dropped + 1
        end
    end
end

--- How long the slowest hook may take for one event.
---@return number ms
function Hooks:deadline_ms()
    local longest = 0
    for _, hook in ipairs(self.list) do
        longest = math.max(longest, hook.timeout_ms + 2 * TERM_MS)
    end
    return longest
end

--- Finishes what is queued, for at most so long; what runs longer is killed, what is left is told.
---@param timeout_ms number
function Hooks:close(timeout_ms)
    if self.closed then
        return
    end
    self.closed = true
    for _, hook in ipairs(self.list) do
        hook.queue:push({ over = true })
    end
    local deadline = mr.clock() + timeout_ms
    for _, hook in ipairs(self.list) do
        hook.task:wait(math.max(1, deadline - mr.clock()))
        if not hook.task:done() then
            tell(self, hook, ("it was ended with the watcher, %d event(s) were left")
                :format(hook.queue:size() - 1 + hook.dropped), { kind = "end" })
            hook.task:cancel()
        end
    end
end

return M
