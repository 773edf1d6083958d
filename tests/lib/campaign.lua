--- Campaigns of faults: drawn by the dice, left for a while and undone; then all comes back.
---
---     local story, undo = campaign.draw(faults, world)
---     campaign.endure(dice, { n = 1, list = { story }, undos = { undo }, left_s = 15,
---         mended = function() campaign.recover(cluster, 240) end })

local wait = require("tests.lib.wait")

local M = {}

--- Draws a fault and does it.
---@param faults {names: string[], kinds: table<string, fun(world: table, content: integer?)>}
---@param world table with the dice
---@param content integer? whose pair is hurt
---@return string story
---@return fun()? undo
function M.draw(faults, world, content)
    local name = world.dice:pick(faults.names)
    -- Who was hurt before may not be there any more to be hurt in this way.
    local done, undo = pcall(faults.kinds[name], world, content)
    local story = name .. (content and " of content " .. content or "")
    if not done then
        return ("%s (cannot be: %s)"):format(story, tostring(undo)), nil
    end
    return story, undo
end

--- Leaves faults as they are, undoes them and has all mended.
---@param dice table
---@param round {n: integer, list: string[], undos: fun()[], left_s: number, mended: fun()}
function M.endure(dice, round)
    local story = ("fault %d: %s"):format(round.n, table.concat(round.list, ", "))
    print("# " .. story)
    dice:told(story, function()
        dice:pause(round.left_s)
        for _, undo in pairs(round.undos) do
            undo()
        end
        round.mended()
    end)
end

--- Has everything run and be in sync again, by start and recoverseg.
---@param cluster table
---@param deadline_s number
---@param started? fun() comes after each start
function M.recover(cluster, deadline_s, started)
    wait.patiently("every pair to be in sync again", deadline_s, function()
        local start = cluster:moonrise({ "start", "-a" })
        if started then
            started()
        end
        local said = cluster:moonrise({ "recoverseg", "-a" })
        return pcall(cluster.wait_healthy, cluster, 15), start.out .. start.err .. said.out
            .. said.err
    end)
end

return M
