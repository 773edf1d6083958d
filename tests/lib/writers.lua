--- Writers in the background that keep a ledger of every row: a runbook tests/lib/NAME_run.lua, to
--- which a spec talks through files in the directory NAME of its place. `count` says how many rows
--- were acknowledged so far; `stop` ends the writers, then there is `stopped`; `prove` has the
--- ledger held against the tables, then there is `proof`, and the runbook ends.

local json = require("dkjson")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local assert = require("luassert")

local M = {}
local Writers = {}
Writers.__index = Writers

-- Either may have to wait for statements that hang.
local STOP_S, PROVE_S = 90, 90

--- Starts the runbook, as NAME_run.lua DIR ARGUMENTS..., and waits for its first row.
---@param cluster table
---@param name string
---@param options? {arguments: string[]?, files: table<string, string>?, on: table?, proof_of:
--- (fun(): string)?} `files`: more of them in DIR; `on`: the test host where it runs, the cluster's
--- own unless given; `proof_of`: what the runbook is told when it shall prove
---@return table writers
function M.start(cluster, name, options)
    options = options or {}
    local place = cluster.place
    place:must({ "mkdir", place:path(name) })
    local function copy(file)
        return place:write(name .. "/" .. file, place_of.read("tests/lib/" .. file))
    end
    copy("writers_run.lua")
    for file, text in pairs(options.files or {}) do
        place:write(name .. "/" .. file, text)
    end
    local program = cluster:start({ "run", copy(name .. "_run.lua"), place:path(name),
        unpack(options.arguments or {}) }, options.on)
    local writers = setmetatable({ program = program, place = place, name = name,
        proof_of = options.proof_of }, Writers)
    writers:progress(1, 30)
    return writers
end

local function read(writers, name)
    return place_of.read(writers.place:path(writers.name .. "/" .. name))
end

-- The file is there when all of it is.
local function tell(writers, name, text)
    local path = writers.place:write(writers.name .. "/" .. name .. ".new", text or "")
    assert(os.rename(path, (path:gsub("%.new$", ""))))
end

--- How many rows were acknowledged so far.
---@return integer
function Writers:count()
    return tonumber(read(self, "count") or "") or 0
end

--- Waits until so many more rows are acknowledged.
---@param rows integer
---@param deadline_s number
function Writers:progress(rows, deadline_s)
    local goal = self:count() + rows
    wait.eventually(("%d more rows to be acknowledged"):format(rows), deadline_s, function()
        return self:count() >= goal, self.program:output()
    end)
end

--- Ends the writers; what they have begun comes to its end.
function Writers:stop()
    tell(self, "stop")
    wait.eventually("the writers to stop", STOP_S, function()
        return read(self, "stopped"), self.program:output()
    end)
end

--- Ends the writers and holds what they know against the tables.
---@return table proof what the runbook has written
function Writers:prove()
    self:stop()
    tell(self, "prove", self.proof_of and self.proof_of())
    local code = self.program:wait(PROVE_S)
    if code ~= 0 then
        error(("the writers ended with code %d\n%s"):format(code, self.program:output()), 2)
    end
    return json.decode(read(self, "proof"))
end

--- Nothing acknowledged is missing, nothing refused is there, nothing is there twice or unwritten.
---@param proof table counts by the names of these faults
---@param whose? string for the message
function M.sound(proof, whose)
    for _, fault in ipairs({ "missing", "ghosts", "twice", "strangers" }) do
        assert.are.equal(0, proof[fault], (whose or "") .. fault)
    end
end

return M
