--- Running something, and something else after it whatever happened.

--- Runs fn(...), then last(), and gives back what fn returned, or raises what it raised.
---@param last function
---@param fn function
---@param ... any for fn
---@return any ...
return function(last, fn, ...)
    local results = { pcall(fn, ...) }
    last()
    if not results[1] then
        error(results[2], 0)
    end
    return unpack(results, 2, table.maxn(results))
end
