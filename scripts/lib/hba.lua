--- moonrise's block in pg_hba.conf: who is let in, as the instances of a cluster change their
--- places. What stands around the block is its owner's and stays; inside of it the lines of role
--- moonrise follow the catalog, all others (cluster.lua's `hba`) stay as they are.
local agents = require("lib.agents")
local busy_places = require("lib.busy_places")
local cluster = require("lib.cluster")
local settings = require("lib.settings")

local M = {}

local BEGIN = "# moonrise begins; changes made here are lost"
local END = "# moonrise ends"

--- The lines of moonrise's block, none where there is no block.
---@param text string a pg_hba.conf
---@return string[] lines
function M.block(text)
    local lines, inside = {}, false
    for line in (text .. "\n"):gmatch("(.-)\r?\n") do
        if line == END and inside then
            return lines
        elseif inside then
            table.insert(lines, line)
        end
        inside = inside or line == BEGIN
    end
    return {}
end

local function is_superusers(line)
    return line:match('^local all ".+" peer$') ~= nil
end

--- The block as it shall be.
---@param block string[] as it is
---@param wanted string[] lib/settings.lua's lines of role moonrise
---@return string[] lines
function M.renewed(block, wanted)
    local first, last = {}, {}
    for _, line in ipairs(block) do
        if is_superusers(line) then
            table.insert(first, line)
        elseif not settings.is_own_hba(line, "") then
            table.insert(last, line)
        end
    end
    for _, list in ipairs({ wanted, last }) do
        for _, line in ipairs(list) do
            table.insert(first, line)
        end
    end
    return first
end

--- The lines of role moonrise in an instance's file.
---@param env Env
---@param instances table[] all of the cluster
---@param inst table
---@return string[] lines
function M.wanted(env, instances, inst)
    return settings.hba({ tls = env.sslmode and {} or nil, hba = {} }, instances, nil, inst)
end

--- Has an instance let in whoever has to do with it, and nobody else, as far as role moonrise goes.
---@param ctx table {env, agents}
---@param inst table
---@param instances table[] those that count, at the places that count
---@param order {epoch: fun(): integer?, Error?, step: integer?} the epoch is asked for when there
--- is something to change
---@return boolean? changed
---@return Error? err
function M.apply(ctx, inst, instances, order)
    local file, err = ctx.agents:read(inst, "pg_hba.conf")
    if not file then
        return nil, err
    end
    local block = M.block(file.text)
    local lines = M.renewed(block, M.wanted(ctx.env, instances, inst))
    if table.concat(lines, "\n") == table.concat(block, "\n") then
        return false
    end
    local epoch
    epoch, err = order.epoch()
    if not epoch then
        return nil, err
    end
    local done
    done, err = ctx.agents:order(inst, "configure", { epoch = epoch,
        step = order.step or agents.steps.configure, hba = lines })
    return done and true, err
end

--- Has the instances of a content that are up follow the catalog, under the content's lease. Where
--- its mirror is being copied to counts, too.
---@param ctx table {env, cat, agents}
---@param content integer
---@param token? integer
---@return integer? changed how many were changed
---@return Error? err the first; the others were done all the same
function M.follow(ctx, content, token)
    local instances, err = ctx.cat:instances()
    local pair = instances and cluster.pair(instances, content)
    if pair then
        instances, err = busy_places.with(ctx, content, instances)
    end
    if not pair or not instances then
        return nil, err
    end
    local reserved
    local order = { epoch = function()
        local problem
        if not reserved then
            reserved, problem = ctx.cat:call("epoch_reserve", token, content,
                "pg_hba.conf follows the catalog")
        end
        return reserved, problem
    end }
    local changed, failure = 0, nil
    for _, inst in ipairs({ pair.primary, pair.mirror }) do
        if inst.status == "u" then
            local done
            done, err = M.apply(ctx, inst, instances, order)
            changed, failure = changed + (done and 1 or 0), failure or (done == nil and err) or nil
        end
    end
    if failure then
        return nil, failure
    end
    return changed
end

return M
