--- Pauses of failover: what one is about, in words and from the command line.
local cluster = require("lib.cluster")
local hold = require("lib.hold")
local mr = require("moonrise")
local term = require("lib.term")

local M = {}

---@class Pause
---@field content? integer
---@field hostname? string without either the whole cluster is meant
---@field holder? string
---@field reason? string
---@field until_text? string

--- What a pause is about: "content 0", "host sdw1" or "the cluster".
---@param pause Pause
---@return string
function M.scope(pause)
    if pause.content then
        return ("content %d"):format(pause.content)
    end
    return pause.hostname and "host " .. pause.hostname or "the cluster"
end

local function wrong(fmt, ...)
    return nil, mr.error("usage", fmt:format(...))
end

--- What CONTENT|HOST on a command line means in this cluster.
---@param word? string nothing is the whole cluster
---@param instances table[] the catalog's rows
---@return Pause? scope
---@return Error? err code "usage" when the cluster has no such content or host
function M.parse(word, instances)
    if not word then
        return {}
    end
    local content = word:match("^%-?%d+$") and tonumber(word)
    for _, inst in ipairs(instances) do
        if content and inst.content == content then
            return { content = content }
        elseif inst.hostname == word then
            return { hostname = word }
        end
    end
    if content then
        return wrong("the cluster has no content %d; it has %s", content,
            table.concat(cluster.values(instances, "content"), ", "))
    end
    return wrong("the cluster has no instance on host %s; its hosts are %s", word,
        table.concat(cluster.values(instances, "hostname"), ", "))
end

--- Reads what CONTENT|HOST on a command line means, and the pauses that there are.
---@param cat table
---@param word? string
---@return {instances: table[], scope: Pause, list: Pause[]}? read
---@return Error? err
function M.read(cat, word)
    local instances, err = cat:instances()
    local scope, list
    if instances then
        scope, err = M.parse(word, instances)
    end
    if scope then
        list, err = cat:pauses()
    end
    return list and { instances = instances, scope = scope, list = list }, err
end

--- Whether a pause is about exactly this.
---@param pause Pause
---@param scope Pause
---@return boolean
function M.same(pause, scope)
    return pause.content == scope.content and pause.hostname == scope.hostname
end

--- Whether a pause keeps the failover of what `scope` names from going on, as a whole or in part.
---@param pause Pause
---@param scope Pause
---@param instances table[]
---@return boolean
function M.covers(pause, scope, instances)
    local contents = {}
    for _, inst in ipairs(instances) do
        if not pause.hostname or inst.hostname == pause.hostname then
            contents[inst.content] = not pause.content or inst.content == pause.content
        end
    end
    for _, inst in ipairs(instances) do
        if contents[inst.content] and (not scope.content or inst.content == scope.content)
            and (not scope.hostname or inst.hostname == scope.hostname) then
            return true
        end
    end
    return false
end

--- Who we are, for the others.
---@return string
function M.holder()
    return (hold.holder():gsub(" pid %d+ boot %w*$", ""))
end

--- What a command has done, as JSON if that was asked for.
---@param opts table
---@param key string
---@param list Pause[]
function M.report(opts, key, list)
    if not opts.json then
        return
    end
    local told = {}
    for i, pause in ipairs(list) do
        told[i] = { content = pause.content, host = pause.hostname, holder = pause.holder,
                    reason = pause.reason, ["until"] = pause.until_text }
    end
    term.json({ [key] = mr.json_array(told) })
end

return M
