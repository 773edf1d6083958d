--- Work on several instances at once, of which each knows what became of it.

local mr = require("moonrise")
local separately = require("lib.separately")

local LIMITS = { hosts = 2, batch = 2, no_progress = true }

describe("work on several at once", function()
    it("tells each what became of it, also of one that has raised an error", function()
        local entries = { { host = "a", does = function()
            return { bytes = 1 }
        end }, { host = "a", does = function()
            return nil, mr.error("refused", "it may not be")
        end }, { host = "b", does = function()
            error("attempt to fail")
        end } }
        mr.main(function()
            separately.run(entries, LIMITS, { question = "Stop", host_of = function(entry)
                return entry.host
            end, run = function(entry)
                return entry.does()
            end })
        end)
        assert.are.same({ bytes = 1 }, entries[1].numbers)
        assert.are.equal("refused", entries[2].err.code)
        assert.matches("attempt to fail", tostring(entries[3].err), 1, true)
        assert.is_nil(entries[3].busy or nil)
    end)
end)
