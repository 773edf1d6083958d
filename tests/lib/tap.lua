--- busted's results as TAP with whole failures, one line a test; tests/run adds them up.
--- busted's own TAP writer dies on a file that does not load, which is when it is needed most.

local count = 0

local function indented(text)
    return (tostring(text):gsub("\n+$", ""):gsub("[^\n]+", "#   %0"))
end

local function message_of(problem)
    local message = problem.message
    if type(message) == "table" and not getmetatable(message) then
        message = require("pl.pretty").write(message)
    end
    return message == nil and "nil error" or tostring(message)
end

local function result(word, name, problem)
    count = count + 1
    io.write(word, " ", count, " - ", (name:gsub("\n", " ")), "\n")
    local trace = problem and problem.trace or {}
    if problem then
        io.write(indented(message_of(problem)), "\n")
    end
    if trace.short_src and trace.currentline then
        io.write("#   at ", trace.short_src, ":", trace.currentline, "\n")
    end
    if trace.traceback then
        io.write(indented(trace.traceback:gsub("^\n", "")), "\n")
    end
    io.flush()
end

local function test_end(handler, status)
    if status == "success" then
        result("ok", handler.successes[#handler.successes].name)
    elseif status == "pending" then
        local test = handler.pendings[#handler.pendings]
        -- Where pending was called from is busted itself.
        local why = test.message and message_of(test):gsub("^%S+:%d+: ", "")
        result("ok", test.name .. (why and ": " .. why or "") .. " # SKIP")
    else
        local list = status == "failure" and handler.failures or handler.errors
        result("not ok", list[#list].name, list[#list])
    end
    return nil, true
end

-- What fails outside of a test: a file that does not load, a setup, a teardown.
local function outside(list, element, message)
    if element.descriptor ~= "it" then
        local problem = list[#list] or { message = message }
        local name = problem.name ~= "" and problem.name or element.name or "busted"
        result("not ok", (element.descriptor or "start") .. " " .. name, problem)
    end
    return nil, true
end

return function()
    local busted = require("busted")
    local handler = require("busted.outputHandlers.base")()

    busted.subscribe({ "test", "end" }, function(_, _, status)
        return test_end(handler, status)
    end, { predicate = handler.cancelOnPending })
    busted.subscribe({ "failure" }, function(element, _, message)
        return outside(handler.failures, element, message)
    end)
    busted.subscribe({ "error" }, function(element, _, message)
        return outside(handler.errors, element, message)
    end)
    busted.subscribe({ "suite", "end" }, function()
        io.write("1..", count, "\n")
        io.flush()
        return nil, true
    end)
    return handler
end
