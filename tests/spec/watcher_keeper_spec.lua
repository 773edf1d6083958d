--- The keeper of the watcher's lease, beside whom others use the same session.
local keeper = require("lib.watcher_keeper")

local function watcher()
    local self = { pairs = {}, look_ms = 0, faults = {} }
    self.lease = { held = true, times = 1, cat = { call = function() return true end } }
    function self.lease.take()
        return true
    end
    function self.lease.read()
        return { state = { config = "new" } }
    end
    self.events = { push = function(_, event) self.event = event end }
    self.looks = { pop = function() self.stopping = true end }
    self.journal = { add = function(_, _, entry) table.insert(self.faults, entry.text) end }
    return self
end

describe("watcher_keeper.keep", function()
    it("goes on when the session is lost while it reads what was configured", function()
        local self = watcher()
        function self.read_config()
            self.lease.cat = nil
        end
        keeper.keep(self)
        assert.same({}, self.faults)
        assert.equal("snapshot", self.event.kind)
    end)
end)
